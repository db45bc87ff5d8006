"""Whether a page's text layer lost something in pypdfium2, and the second reading by pdfminer.six.

The sign of lost text is text objects that yield none; such a page is read by pdfminer.six too, and its text is taken
when it holds character sequences that the other one lacks. Doubled text, which some writers print to look bold, adds
none and so does not count.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ingest.extract.pdf_lines import Line
from ingest.extract.pdf_miner import miner_lines
from ingest.quality import garbled_share

_SILENT_SHARE = 0.15
_SILENT_SHARE_WHEN_FRUITLESS = 0.5
_FRUITLESS_READINGS = 6
"""Writers that print each space as an object of its own look as if text were missing. After so many second readings
in vain the document is taken for one of those, and only pages with mostly silent objects are read again."""
_MIN_NEW_SHARE = 0.1
_MAX_GARBLED = 0.05
_SECOND_READING_S = 40.0
"""CPU time for second readings of one document; pages beyond it keep their first reading, and are counted."""
_REPEATS = re.compile(r"(.)\1+")
_SPACES = re.compile(r"\s+")


@dataclass(slots=True)
class Checks:
    """What second readings of one document came to."""

    pages_by_pdfminer: list[int] = field(default_factory=list)
    pages_not_checked: int = 0
    seconds: float = 0.0
    fruitless: int = 0


def looks_short(page: Any, text_page: Any, texts: Sequence[str], checks: Checks) -> bool:
    """Whether text objects of the page yield nothing, or what they yield is noise. texts: its lines as read."""
    import pypdfium2.raw as pdfium

    if garbled_share("".join(texts)) > _MAX_GARBLED:
        return True
    total = silent = 0
    for item in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_TEXT], max_depth=3):
        total += 1
        silent += pdfium.FPDFTextObj_GetText(item.raw, text_page.raw, None, 0) <= 2
    fruitless = checks.fruitless >= _FRUITLESS_READINGS
    return silent > (_SILENT_SHARE_WHEN_FRUITLESS if fruitless else _SILENT_SHARE) * total


def second_reading(data: bytes, index: int, texts: Sequence[str], checks: Checks) -> list[Line] | None:
    """The lines of a page by pdfminer.six where they hold more than `texts`; None where the first reading stands."""
    if checks.seconds > _SECOND_READING_S:
        checks.pages_not_checked += 1
        return None
    started = time.process_time()
    other = miner_lines(data, index)
    checks.seconds += time.process_time() - started
    first, second = _sequences(texts), _sequences([line.text for line in other])
    first_garbled = garbled_share("".join(texts))
    second_garbled = garbled_share("".join(line.text for line in other))
    if second_garbled > max(first_garbled, _MAX_GARBLED):
        return None
    if len(second - first) > _MIN_NEW_SHARE * max(1, len(second)) or second_garbled < first_garbled - _MAX_GARBLED:
        checks.pages_by_pdfminer.append(index + 1)
        checks.fruitless = 0
        return other
    checks.fruitless += 1
    return None


def _sequences(texts: Sequence[str]) -> set[str]:
    """Pairs of neighbouring characters inside lines, in either order: the engines disagree on right-to-left text.

    Repeats count once, because doubled glyphs mean bold, not text.
    """
    pairs: set[str] = set()
    for line in texts:
        text = _REPEATS.sub(r"\1", _SPACES.sub("", line))
        pairs.update("".join(sorted(text[i : i + 2])) for i in range(max(1, len(text) - 1)))
    return pairs
