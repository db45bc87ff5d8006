"""What the styles of an OpenDocument file say: struck and hidden text, how lists and headings are numbered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ingest.extract.numerals import number_text

TEXT = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
STYLE = "{urn:oasis:names:tc:opendocument:xmlns:style:1.0}"
_FORMATS = {
    "1": "decimal", "a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman", "": "none",
    "１, ２, ３, ...": "decimalFullWidth", "一, 二, 三, ...": "japaneseCounting", "壱, 弐, 参, ...": "japaneseLegal",
    "①, ②, ③, ...": "decimalEnclosedCircle", "ア, イ, ウ, ...": "aiueo", "ｱ, ｲ, ｳ, ...": "aiueo",
    "イ, ロ, ハ, ...": "iroha", "ｲ, ﾛ, ﾊ, ...": "iroha", "甲, 乙, 丙, ...": "ideographTraditional",
    "子, 丑, 寅, ...": "ideographZodiac",
}  # fmt: skip
_WIDE_FROM = "\u2460"
_MAX_LEVELS = 10


@dataclass(frozen=True, slots=True)
class _Style:
    parent: str | None
    struck: bool | None
    hidden: bool | None
    list_style: str | None


@dataclass(frozen=True, slots=True)
class _Level:
    number_format: str
    prefix: str
    suffix: str
    start: int
    shown: int
    """How many levels the number shows: 3 for 1.2.3."""


class Styles:
    """Styles of the content and of the file, by name."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self._styles: dict[str, _Style] = {}
        self._lists: dict[str, dict[int, _Level]] = {}
        self.outline: dict[int, _Level] = {}
        for root in roots:
            for item in root.iter(STYLE + "style"):
                self._styles[item.get(STYLE + "name") or ""] = _style(item)
            for item in root.iter(TEXT + "list-style"):
                self._lists[item.get(STYLE + "name") or ""] = _levels(item)
            for item in root.iter(TEXT + "outline-style"):
                self.outline = _levels(item)

    def why_left_out(self, name: str | None) -> str | None:
        """`struck` or `hidden` where a style says so, its ancestors included."""
        struck: bool | None = None
        seen: set[str] = set()
        while name and name in self._styles and name not in seen:
            seen.add(name)
            style = self._styles[name]
            if style.hidden:
                return "hidden"
            struck = style.struck if struck is None else struck
            name = style.parent
        return "struck" if struck else None

    def list_style(self, name: str | None) -> str | None:
        """The list that a paragraph style is bound to."""
        return self._styles[name].list_style if name in self._styles else None

    def levels(self, name: str | None) -> dict[int, _Level]:
        """The levels of a list style; empty where it is unknown or only bullets."""
        return self._lists.get(name or "", {})


class Numbers:
    """Counts one list or the outline of a document."""

    def __init__(self, levels: dict[int, _Level]) -> None:
        self._levels = levels
        self._counters: dict[int, int] = {}

    def label(self, at: int, start: int | None = None) -> str:
        """Count the next item at a level (1 is the outermost); `- ` for a bullet, empty where nothing is shown.

        start: the number that this item is given.
        """
        level = self._levels.get(at)
        if level is None:
            return "- "
        before = self._counters.get(at)
        self._counters[at] = start if start is not None else level.start if before is None else before + 1
        for deeper in [key for key in self._counters if key > at]:
            del self._counters[deeper]
        first = max(1, at - level.shown + 1)
        numbers = [
            number_text(self._counters.get(key, item.start), item.number_format)
            for key in range(first, at + 1)
            if (item := self._levels.get(key)) is not None
        ]
        text = ".".join(number for number in numbers if number)
        if not text:
            return ""
        text = f"{level.prefix}{text}{level.suffix}".strip()
        return text + ("\u3000" if text[-1:] >= _WIDE_FROM else " ")


def whole(text: str | None, default: int, most: int = 32_767) -> int:
    """A whole number as files give it, bounded."""
    return min(int(text), most) if text and text.isascii() and text.isdigit() and len(text) < 7 else default


def _style(item: Any) -> _Style:
    properties = item.find(STYLE + "text-properties")
    line = kind = display = None
    if properties is not None:
        line = properties.get(STYLE + "text-line-through-style")
        kind = properties.get(STYLE + "text-line-through-type")
        display = properties.get(TEXT + "display")
    said = line or kind
    return _Style(
        parent=item.get(STYLE + "parent-style-name"),
        struck=None if said is None else said != "none",
        hidden=None if display is None else display == "none",
        list_style=item.get(STYLE + "list-style-name"),
    )


def _levels(item: Any) -> dict[int, _Level]:
    found: dict[int, _Level] = {}
    for level in item:
        at = whole(level.get(TEXT + "level"), 0, _MAX_LEVELS)
        if level.tag not in {TEXT + "list-level-style-number", TEXT + "outline-level-style"} or not at:
            continue
        found[at] = _Level(
            number_format=_FORMATS.get(level.get(STYLE + "num-format") or "", "decimal"),
            prefix=(level.get(STYLE + "num-prefix") or "")[:50],
            suffix=(level.get(STYLE + "num-suffix") or "")[:50],
            start=whole(level.get(TEXT + "start-value"), 1),
            shown=whole(level.get(TEXT + "display-levels"), 1, _MAX_LEVELS),
        )
    return found
