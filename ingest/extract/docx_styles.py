"""What the styles of a DOCX say about structure and show: heading levels, numbering, struck and hidden text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_OFF = frozenset({"0", "false", "off", "none"})
_HEADING_NAME = re.compile(r"(?:heading|見出し) ?([1-9])")
_CONTENTS_NAME = re.compile(r"(?:toc|目次) ?[1-9]")


@dataclass(frozen=True, slots=True)
class Style:
    """One style with what it inherits. numbering: id of a list, `level` its level where the style says one."""

    heading_level: int | None = None
    numbering: str | None = None
    level: int | None = None
    struck: bool = False
    hidden: bool = False
    is_contents: bool = False
    is_caption: bool = False


@dataclass(frozen=True, slots=True)
class Styles:
    """Styles by id; an unknown id is a style that says nothing."""

    by_id: dict[str, Style] = field(default_factory=dict)
    list_styles: dict[str, str] = field(default_factory=dict)
    """Id of a list style to the list that it names."""

    def __getitem__(self, identifier: str) -> Style:
        return self.by_id.get(identifier, _PLAIN)


_PLAIN = Style()


def read_styles(root: Any | None) -> Styles:
    """Read `styles.xml`; None where a document has none."""
    styles = Styles()
    elements = {} if root is None else {item.get(W + "styleId") or "": item for item in root.iter(W + "style")}
    for identifier, element in elements.items():
        if element.get(W + "type") == "numbering":
            number = value_of(element, f"{W}pPr/{W}numPr/{W}numId")
            if number:
                styles.list_styles[identifier] = number
        else:
            styles.by_id[identifier] = _merged(_ancestry(identifier, elements))
    return styles


def value_of(element: Any, path: str) -> str | None:
    """`w:val` of the first element at a path, None where there is none."""
    found = element.find(path) if element is not None else None
    return found.get(W + "val") if found is not None else None


def toggle(properties: Any, *names: str) -> bool | None:
    """Whether one of these on-off properties is on; None where none of them is said."""
    said: bool | None = None
    for name in names:
        found = properties.find(W + name) if properties is not None else None
        if found is not None:
            said = bool(said) or (found.get(W + "val") or "").lower() not in _OFF
    return said


def outline_level(element: Any) -> int | None:
    """1 to 9 from `w:outlineLvl`, where 0 is the top and 9 means body text."""
    value = value_of(element, f"{W}pPr/{W}outlineLvl") or ""
    return int(value) + 1 if value in set("012345678") else None


def small_int(text: str | None, default: int, *, most: int = 32_767) -> int:
    """A whole number from 0 to `most`, else the default: files are free to hold anything."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 7 and int(text) <= most else default


def _merged(chain: list[Any]) -> Style:
    """What a style says, else the style that it is based on, and so on up."""
    names = [(value_of(element, W + "name") or "").lower() for element in chain]
    properties = [element.find(W + "rPr") for element in chain]
    numbering = next((value for element in chain if (value := value_of(element, f"{W}pPr/{W}numPr/{W}numId"))), None)
    level = next((value for element in chain if (value := value_of(element, f"{W}pPr/{W}numPr/{W}ilvl"))), None)
    return Style(
        heading_level=next(_levels(chain, names), None),
        numbering=numbering if numbering != "0" else None,
        level=small_int(level, 0, most=8) if level is not None else None,
        struck=_first(toggle(item, "strike", "dstrike") for item in properties),
        hidden=_first(toggle(item, "vanish") for item in properties),
        is_contents=any(_CONTENTS_NAME.fullmatch(name) for name in names),
        is_caption="caption" in names or "図表番号" in names,
    )


def _levels(chain: list[Any], names: list[str]) -> Iterator[int]:
    for element, name in zip(chain, names, strict=True):
        level = outline_level(element)
        named = _HEADING_NAME.fullmatch(name)
        if level is not None:
            yield level
        elif named:
            yield int(named.group(1))
        elif name == "title":
            yield 1


def _first(values: Iterator[bool | None]) -> bool:
    return next((value for value in values if value is not None), False)


def _ancestry(identifier: str, elements: dict[str, Any]) -> list[Any]:
    chain: list[Any] = []
    seen: set[str] = set()
    while identifier in elements and identifier not in seen:
        seen.add(identifier)
        chain.append(elements[identifier])
        identifier = value_of(elements[identifier], W + "basedOn") or ""
    return chain
