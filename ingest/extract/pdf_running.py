"""Running headers, footers and page numbers: what pages repeat at the same place belongs to none of their sentences.

A number may change from page to page if it counts with them. Lines are taken from the edge of the page inwards, as far
as they are repeated; a line larger than the body is a title even where two pages share it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from ingest.extract.pdf_lines import Line

_ZONE = 0.14
"""Share of the page's height, at the top and at the bottom, in which running lines are looked for."""
_AT_MOST = 4
"""Lines of one edge."""
_PLACE = 4.0
"""Points by which the place of a running line may differ."""
_LARGE = 1.15
_SPACE = 0.8
"""Space between running lines and text, in heights of letters; lines of one paragraph are nearer."""
_NUMBER = re.compile(r"(?<![\w.,:\-/])[0-9０-９]{1,4}(?![\w.,:])")
_PAGE_ONLY = re.compile(
    r"[\s\-–—―－ー~〜|・(（\[]{0,4}(?:page|pg?\.|第)?\s{0,2}(?P<page>[0-9０-９]{1,4}|[ivxlc]{1,6})\s{0,2}(?:ページ|頁|page)?"
    r"(?:\s{0,2}(?:/|／|of|の)\s{0,2}[0-9０-９]{1,4}\s{0,2}(?:ページ|頁)?)?[\s\-–—―－ー~〜|・)）\]]{0,4}",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Edge:
    """A line near an edge of its page: distance of its middle from that edge, and what it may repeat as."""

    line: Line
    distance: float
    keys: tuple[str, ...]


def running_lines(pages: Sequence[Sequence[Any]], heights: Sequence[float]) -> list[set[int]]:
    """For each page the indexes of its running lines. pages: `Line`s among other things, which are left alone."""
    sizes = [line.size for page in pages for line in page if isinstance(line, Line) for _ in range(len(line.text))]
    body = median(sizes) if sizes else 0.0
    needed = 2 if len(pages) <= 4 else 3
    found: list[set[int]] = [set() for _ in pages]
    for top in (True, False):
        edges = [
            _edge(page, height, number, top)
            for number, (page, height) in enumerate(zip(pages, heights, strict=True), 1)
        ]
        places: dict[str, list[float]] = defaultdict(list)
        for edge in edges:
            for key, place in {(key, item.distance) for item in edge.values() for key in item.keys}:
                places[key].append(place)
        for at, edge in enumerate(edges):
            inwards = sorted(edge.items(), key=lambda entry: entry[1].distance)
            candidates: list[int] = []
            for index, item in inwards[:_AT_MOST]:
                if body and item.line.size > _LARGE * body:
                    break
                repeated = any(
                    sum(abs(place - item.distance) <= _PLACE for place in places[key]) >= needed for key in item.keys
                )
                if not repeated and not _is_page_number(item.line, at + 1):
                    break
                candidates.append(index)
            found[at].update(_set_apart(candidates, pages[at], top=top))
    return found


def _set_apart(candidates: Sequence[int], page: Sequence[Any], *, top: bool) -> Sequence[int]:
    """Those of the repeated lines, from the edge inwards, after which the widest space comes."""
    best: Sequence[int] = []
    widest = 0.0
    for count in range(1, len(candidates) + 1):
        line = page[candidates[count - 1]]
        rest = [other for at, other in enumerate(page) if at not in candidates[:count]]
        boxes = [(o.y0, o.y1) if isinstance(o, Line) else (o.box[1], o.box[3]) for o in rest]
        gap = min((line.y0 - y1 if top else y0 - line.y1 for y0, y1 in boxes), default=line.size)
        if gap > max(widest, _SPACE * line.size):
            widest, best = gap, candidates[:count]
    return best


def _edge(page: Sequence[Any], height: float, number: int, top: bool) -> dict[int, _Edge]:
    edge = {}
    for index, line in enumerate(page):
        if not isinstance(line, Line) or line.vertical:
            continue
        middle = (line.y0 + line.y1) / 2
        distance = height - middle if top else middle
        if distance <= _ZONE * height:
            edge[index] = _Edge(line, distance, _keys(line.text, number))
    return edge


def _keys(text: str, page: int) -> tuple[str, ...]:
    """The text itself, and the text with its first or last free-standing number as its distance from the page's."""
    plain = " ".join(text.split())
    keys = {plain}
    numbers = list(_NUMBER.finditer(plain))
    for found in {numbers[0], numbers[-1]} if numbers else ():
        keys.add(f"{plain[: found.start()]}\0{int(found[0]) - page}{plain[found.end() :]}")
    if len(numbers) == 2:
        first, last = numbers
        between = plain[first.end() : last.start()]
        keys.add(f"{plain[: first.start()]}\0{int(first[0]) - page}{between}\0{plain[last.end() :]}")
    return tuple(keys)


def _is_page_number(line: Line, page: int) -> bool:
    """Whether a line at the edge says nothing but its page, or says it far from the rest."""
    found = _PAGE_ONLY.fullmatch(line.text.strip())
    if found:
        return found["page"].isdecimal() and int(found["page"]) == page
    return line.loose_end and line.text.split()[-1].isdecimal() and int(line.text.split()[-1]) == page
