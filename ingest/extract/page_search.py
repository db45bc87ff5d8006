"""Where a span of the extracted text stands on its page: letters of the page are matched with those of the block.

The extracted text has lost the page's order of things: lines are joined, cells stand in rows with their headers. So a
span in running text is found through its whole block, and a cell through its whole row: its values stand side by side.
White space counts nowhere, because PDFium, OCR and the extracted text each have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.table_text import read_row

_MANY = 60
"""Places of one value that are looked at."""
_CONTEXT = 40
_SHORTEST_PART = 2

Range = tuple[int, int]
"""Letters of the page from the first to one past the last."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A span to find: text[start:end] of a block, or of one row of a table.

    nth: how many blocks or rows of the page with the same text come before.
    """

    text: str
    start: int
    end: int
    nth: int = 0
    is_row: bool = False


@dataclass(frozen=True, slots=True)
class Letters:
    """The letters of a page without white space. place: (x, y) of the middle of a letter, y downwards."""

    text: str
    place: Callable[[int], tuple[float, float]]


def find_mark(letters: Letters, mark: Mark) -> list[Range]:
    """Ranges of letters that show a span; none where the page does not have it."""
    found = _in_row(letters, mark) if mark.is_row else _in_block(letters.text, mark)
    if found:
        return found
    wanted = squeezed(mark.text[mark.start : mark.end])
    before, after = squeezed(mark.text[: mark.start]), squeezed(mark.text[mark.end :])
    places = _all(letters.text, wanted)
    if places:
        at = max(places, key=lambda at: _likeness(letters.text, at, at + len(wanted), before, after))
        return [(at, at + len(wanted))]
    return _in_parts(letters, wanted, None)


def squeezed(text: str) -> str:
    """A text without white space."""
    return "".join(text.split())


def _in_block(page: str, mark: Mark) -> list[Range]:
    places = _all(page, squeezed(mark.text))
    if not places:
        return []
    at = places[min(mark.nth, len(places) - 1)] + len(squeezed(mark.text[: mark.start]))
    return [(at, at + len(squeezed(mark.text[mark.start : mark.end])))]


def _in_row(letters: Letters, mark: Mark) -> list[Range]:
    cells = [(cell, squeezed(cell.value)) for cell in read_row(mark.text)]
    height = _row_height(letters, [value for _, value in cells], mark.nth)
    found: list[Range] = []
    for at, (cell, value) in enumerate(cells):
        start, end = max(cell.start, mark.start), min(cell.end, mark.end)
        if start >= end:
            continue
        same_before = sum(other == value for _, other in cells[:at])
        first = _nearest(letters, value, height, same_before)
        if first is None:
            found += _in_parts(letters, value, height)
            continue
        offset = first + len(squeezed(mark.text[cell.start : start]))
        found.append((offset, offset + len(squeezed(mark.text[start:end]))))
    return found


def _row_height(letters: Letters, values: Sequence[str], nth: int) -> float | None:
    """Y of the row in which the values stand side by side; None where none of them is on the page."""
    known = [(value, _whole(letters.text, value)) for value in dict.fromkeys(values)]
    known = [(value, places) for value, places in known if places]
    if not known:
        return None
    rarest = min(known, key=lambda item: len(item[1]))
    heights = [letters.place(at)[1] for at in rarest[1]]

    def cost(height: float) -> float:
        return sum(min(abs(letters.place(at)[1] - height) for at in places) for _, places in known)

    costs = [cost(height) for height in heights]
    best = [height for height, spread in zip(heights, costs, strict=True) if spread <= min(costs) + 2.0]
    return best[min(nth, len(best) - 1)]


def _nearest(letters: Letters, value: str, height: float | None, same_before: int) -> int | None:
    """Where a value stands in the row at a height; of equal ones in a row, the one with so many to its left."""
    places = _whole(letters.text, value)
    if not places:
        return None
    if height is None:
        return places[0]
    nearest = min(abs(letters.place(at)[1] - height) for at in places)
    level = [at for at in places if abs(letters.place(at)[1] - height) <= nearest + 2.0]
    level.sort(key=lambda at: letters.place(at)[0])
    return level[min(same_before, len(level) - 1)]


def _in_parts(letters: Letters, wanted: str, height: float | None) -> list[Range]:
    """A text that the page has in pieces, as where a cell is broken: the longest ones, from the start."""
    found: list[Range] = []
    rest = wanted
    while len(rest) >= _SHORTEST_PART:
        length = _longest_prefix(letters.text, rest)
        if length < _SHORTEST_PART:
            rest = rest[1:]
            continue
        at = _nearest(letters, rest[:length], height, 0)
        if at is not None:
            found.append((at, at + length))
        rest = rest[length:]
    return found if sum(end - start for start, end in found) * 2 > len(wanted) else _ends(letters.text, wanted)


def _ends(page: str, wanted: str) -> list[Range]:
    """The part of a text that goes on on the next page, or has begun on the one before."""
    length = _longest_prefix(page, wanted)
    if length >= 6 and page.rfind(wanted[:length]) + length >= len(page) - _CONTEXT * 4:
        at = page.rfind(wanted[:length])
        return [(at, at + length)]
    for skipped in range(len(wanted) - 5):
        at = page.find(wanted[skipped:])
        if 0 <= at <= _CONTEXT * 4:
            return [(at, at + len(wanted) - skipped)]
    return []


def _longest_prefix(page: str, wanted: str) -> int:
    low, high = 0, len(wanted)
    while low < high:
        middle = (low + high + 1) // 2
        if wanted[:middle] in page:
            low = middle
        else:
            high = middle - 1
    return low


def _whole(page: str, value: str) -> list[int]:
    """Places of a value, those inside a longer number or word only where there are no others."""
    places = _all(page, value)
    whole = [at for at in places if not _is_inside(page, at, at + len(value))]
    return (whole or places)[:_MANY]


def _is_inside(page: str, start: int, end: int) -> bool:
    def goes_on(first: str, second: str) -> bool:
        return first.isascii() and second.isascii() and first.isalnum() and (second.isalnum() or second in ".,")

    return (start > 0 and goes_on(page[start], page[start - 1])) or (
        end < len(page) and goes_on(page[end - 1], page[end])
    )


def _all(page: str, wanted: str) -> list[int]:
    places: list[int] = []
    at = page.find(wanted) if wanted else -1
    while at >= 0 and len(places) < 4 * _MANY:
        places.append(at)
        at = page.find(wanted, at + 1)
    return places


def _likeness(page: str, start: int, end: int, before: str, after: str) -> int:
    """How many letters around a place are those around the span."""
    return _common(page[max(0, start - _CONTEXT) : start][::-1], before[::-1]) + _common(page[end:], after)


def _common(one: str, other: str) -> int:
    count = 0
    for a, b in zip(one[:_CONTEXT], other[:_CONTEXT], strict=False):
        if a != b:
            break
        count += 1
    return count
