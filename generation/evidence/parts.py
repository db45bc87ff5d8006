"""Parts of a line that tell the same kind of thing of several, and labels as a question says them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_BRACKETS = {"(": ")", "（": "）", "「": "」", "『": "』", "[": "]", "【": "】"}
_AND = re.compile(r"[者名先日]?(?:と|や|、|及び|および|・|,| and (?:the )?| & )")
_AMOUNT = re.compile(
    r"(?<![a-z\d.])[£$€¥]?\d[\d,.]{0,14} ?(?P<unit>n・m|[a-z%℃°μ/]{1,8}|[円万年か月日時分秒人名台個件回枚本泊度]{1,3})"
)
_GOES_ON = ("は", "が", "を", "に", "も", "で", "と", "の", "へ", "や")


def narrowed(covers: Sequence[float], tells: Sequence[bool]) -> int | None:
    """The one part that the question means where several tell of what it asks: the one that covers more of it.

    None where fewer than two tell, or where no one of them covers more than all others.
    """
    told = [at for at, one in enumerate(tells) if one]
    if len(told) < 2:
        return None
    best, second = sorted(told, key=lambda at: -covers[at])[:2]
    return best if covers[best] > covers[second] + 1e-9 else None


def amounts_alike(parts: Sequence[str]) -> list[bool]:
    """For each folded part whether it tells an amount in a unit that another part tells one in as well.

    'φ9.52が34~42n・m' beside 'φ12.7が49~61n・m', 'written warning, live for 12 months' beside '... for 6 months'.
    """
    units = [frozenset(match["unit"] for match in _AMOUNT.finditer(part)) for part in parts]
    told = Counter(unit for own in units for unit in own)
    return [any(told[unit] > 1 for unit in own) for own in units]


def said_part(label: str, folded: str) -> float:
    """How much of a folded label, or of the last of its levels, stands in the question as it is: 0 to 1."""
    here = [_stands(part.strip(), folded) for part in label.split("/")]
    return (0.5 + 0.5 * here[-1]) * sum(here) / len(here)


def _stands(part: str, folded: str) -> float:
    at = folded.find(part) if len(part) > 1 else -1
    if at < 0:
        return 0.0
    before, after = folded[at - 1 : at] if at else "", folded[at + len(part) : at + len(part) + 1]
    cut = (part[0].isdigit() and before.isdigit()) or (part[-1].isdigit() and after.isdigit())
    return float(not cut)


def complete(text: str) -> bool:
    """Whether a part can be read by itself: no bracket is cut, and no particle is left without what it leads to."""
    cut = any(text.count(begin) != text.count(end) for begin, end in _BRACKETS.items())
    return not cut and not text.rstrip("、，,; ").endswith(_GOES_ON)


def said_together(labels: Sequence[str], folded: str) -> list[int]:
    """Two of the folded labels that a question names one beside the other (担当と期限は); [] where it names none so."""
    places = {}
    for at, label in enumerate(labels):
        last = label.rpartition(" / ")[2].strip()
        place = folded.find(last) if len(last) > 1 else -1
        if place >= 0:
            places[at] = (place, place + len(last))
    for one, (_, end) in places.items():
        for other, (start, _) in places.items():
            if one != other and start >= end and _AND.fullmatch(folded[end:start]):
                return [one, other]
    return []
