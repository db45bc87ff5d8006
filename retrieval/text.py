"""What of a chunk is embedded and indexed. Ingest, rebuild and benchmarks all call this one function."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from retrieval.lexical import tokenize

_EXTENSION = re.compile(r"\.[0-9A-Za-z]{1,5}$")
_BORDER = re.compile(r"[_\s/\\]+|(?<=[^\W\d_])-(?=[^\W\d_])|(?<=[a-z])(?=[A-Z])")


def indexed_text(filename: str | None, title: str | None, heading: str | None, text: str) -> str:
    """Text that both vectors of a chunk are made of: its place in the document, then the passage.

    filename: as uploaded; people ask for files by their names. title: the document's own. heading: 'A > B'. A chunk
    that says "15 days" is found by "annual leave" only when its heading goes with it. What another part of the place
    already says is left out.
    """
    place: list[str] = []
    for given in (heading, title, name_words(filename or "")):
        part = (given or "").strip()
        if part and not any(_terms(part) <= _terms(other) for other in place):
            place.insert(0, part)
    return "\n".join([*place, text.strip()])


def name_words(filename: str) -> str:
    """Words of a file name: 'policy-final.md' -> 'policy final', 'LeavePolicy_2025.docx' -> 'Leave Policy 2025'."""
    name = unicodedata.normalize("NFC", filename)
    return _BORDER.sub(" ", _EXTENSION.sub("", name)).strip()


@lru_cache(maxsize=4_096)
def _terms(part: str) -> frozenset[str]:
    return frozenset(tokenize(part))
