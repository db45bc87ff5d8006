"""Automatic numbers of a DOCX: the text of a list item's label, counted as Word counts.

Counters belong to the abstract list: two lists of one abstract list go on counting, until one says where it starts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from ingest.extract.docx_styles import Styles, W, small_int, toggle, value_of
from ingest.extract.numerals import number_text

_PLACE = re.compile(r"%([1-9])")
_LEVELS = 9
_WIDE = re.compile(r"[\u2460-\u24ff\u3000-\u9fff\uff00-\uffef]")


@dataclass(frozen=True, slots=True)
class _Level:
    start: int = 0
    number_format: str = "decimal"
    text: str = ""
    suffix: str = "tab"
    restart: int | None = None
    """Levels above (counted from 1) whose next item starts this one anew: 0 for none; None for any of them."""
    legal: bool = False
    style: str | None = None


@dataclass(slots=True)
class _List:
    abstract: str
    levels: dict[int, _Level] = field(default_factory=dict)
    starts: dict[int, int] = field(default_factory=dict)
    """Where this list starts anew, by level; taken once, by its first item there."""


@dataclass(frozen=True, slots=True)
class Label:
    """What stands before an item, its space included; `bullet` for a mark that counts nothing."""

    text: str
    bullet: bool


class Numbering:
    """The lists of one document; `label` is asked once for each item, in the order of the document."""

    def __init__(self, root: Any | None, styles: Styles) -> None:
        self._lists: dict[str, _List] = {}
        self._counters: dict[str, dict[int, int]] = {}
        if root is not None:
            self._read(root, styles)

    def level_of_style(self, number: str, style: str) -> int:
        """The level of a list that a paragraph style is bound to; 0 where the list names none."""
        item = self._lists.get(number)
        return next((at for at, level in item.levels.items() if level.style == style), 0) if item else 0

    def label(self, number: str, at: int) -> Label | None:
        """Count the next item of list `number` at level `at` (0 is the outermost). None where there is no such list."""
        item = self._lists.get(number)
        level = item.levels.get(at) if item else None
        if item is None or level is None:
            return None
        counters = self._counters.setdefault(item.abstract, {})
        if at in item.starts:
            counters[at] = item.starts.pop(at)
        elif at in counters:
            counters[at] += 1
        else:
            counters[at] = level.start
        for lower in [deeper for deeper in counters if deeper > at]:
            restart = item.levels.get(lower, _Level()).restart
            if restart is None or (restart > 0 and at < restart):
                del counters[lower]
        if level.number_format == "bullet":
            return Label("- ", bullet=True)
        text = _PLACE.sub(lambda place: self._number(item, counters, int(place.group(1)) - 1, level), level.text)
        return Label(text + _space(text, level.suffix) if text.strip() else "", bullet=False)

    @staticmethod
    def _number(item: _List, counters: dict[int, int], at: int, asking: _Level) -> str:
        level = item.levels.get(at, _Level(start=1))
        number = counters.setdefault(at, level.start)  # a level that no item has opened counts as begun
        return number_text(number, "decimal" if asking.legal else level.number_format)

    def _read(self, root: Any, styles: Styles) -> None:
        abstracts = {item.get(W + "abstractNumId"): item for item in root.iter(W + "abstractNum")}
        targets = {item.get(W + "numId"): value_of(item, W + "abstractNumId") for item in root.iter(W + "num")}
        for item in root.iter(W + "num"):
            abstract = value_of(item, W + "abstractNumId")
            for _ in range(_LEVELS):  # a list that stands for a list style; a circle of them ends
                style = value_of(abstracts.get(abstract), W + "numStyleLink") if abstract in abstracts else None
                if not style or style not in styles.list_styles:
                    break
                abstract = targets.get(styles.list_styles[style])
            if abstract is None or abstract not in abstracts:
                continue
            entry = _List(abstract, dict(_levels(abstracts[abstract])))
            for change in item.iter(W + "lvlOverride"):
                at = small_int(change.get(W + "ilvl"), 0, most=_LEVELS - 1)
                entry.levels.update(_levels(change))
                start = value_of(change, W + "startOverride")
                if start is not None:
                    entry.starts[at] = small_int(start, 1)
                    entry.levels[at] = replace(entry.levels.get(at, _Level()), start=entry.starts[at])
            self._lists[item.get(W + "numId") or ""] = entry


def _levels(element: Any) -> list[tuple[int, _Level]]:
    found = []
    for item in element.iter(W + "lvl"):
        restart = value_of(item, W + "lvlRestart")
        number_format = item.find(f".//{W}numFmt")  # inside AlternateContent where it is a newer one
        found.append(
            (
                small_int(item.get(W + "ilvl"), 0, most=_LEVELS - 1),
                _Level(
                    start=small_int(value_of(item, W + "start"), 0),
                    number_format=(number_format.get(W + "val") if number_format is not None else None) or "decimal",
                    text=(value_of(item, W + "lvlText") or "")[:200],
                    suffix=value_of(item, W + "suff") or "tab",
                    restart=small_int(restart, 0, most=_LEVELS) if restart is not None else None,
                    legal=bool(toggle(item, "isLgl")),
                    style=value_of(item, W + "pStyle"),
                ),
            )
        )
    return found


def _space(text: str, suffix: str) -> str:
    """What Word sets between number and text: nothing, or a gap as wide as the script's own space."""
    if suffix == "nothing" or text[-1:].isspace():
        return ""
    return "\u3000" if _WIDE.search(text[-1:]) else " "
