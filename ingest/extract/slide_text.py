"""Text of a text frame of PPTX as it is shown: automatic numbers, link targets; struck runs left out and counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

from core.types import BlockKind
from ingest.extract.builder import TextBuilder
from ingest.extract.links import linked
from ingest.extract.numerals import number_text

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_R_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_BULLETS = tuple("・•●○■□▪‣◦-–*※➢✓")
_SCHEMES = {
    "arabic": "decimal", "alphaLc": "lowerLetter", "alphaUc": "upperLetter", "romanLc": "lowerRoman",
    "romanUc": "upperRoman", "circleNumDb": "decimalEnclosedCircle", "circleNumWdBlack": "decimalEnclosedCircle",
    "circleNumWdWhite": "decimalEnclosedCircle", "arabicDb": "decimalFullWidth", "ea1Jpn": "japaneseCounting",
    "ea1JpnKor": "japaneseCounting", "ea1JpnChsDb": "japaneseCounting", "ea1Chs": "japaneseCounting",
    "ea1Cht": "japaneseCounting",
}  # fmt: skip
_ENDINGS = {"ParenBoth": "({})", "ParenR": "{})", "Period": "{}.", "Plain": "{}", "Minus": "{}-"}


def write_paragraphs(frame: Any, builder: TextBuilder, page: int, left_out: Counter[str]) -> bool:
    """Write the paragraphs of a frame as blocks; whether there was any text."""
    lines = frame_lines(frame, left_out)
    for kind, text in lines:
        builder.add(kind, text, page=page)
    return bool(lines)


def frame_lines(frame: Any, left_out: Counter[str]) -> list[tuple[BlockKind, str]]:
    """Paragraphs with text, each with its number or bullet. left_out: counts the characters of struck runs."""
    found: list[tuple[BlockKind, str]] = []
    counters: dict[int, tuple[str, int]] = {}
    for paragraph in frame.paragraphs:
        text = _text(paragraph, left_out).replace("\v", "\n").strip()
        if not text:
            continue
        level = paragraph.level or 0
        label = _number(paragraph, level, counters)
        if label is not None:
            found.append((BlockKind.LIST_ITEM, f"{label} {text}"))
        elif paragraph._p.find(f"{_A}pPr/{_A}buChar") is not None or level:
            found.append((BlockKind.LIST_ITEM, text if text.startswith(_BULLETS) else f"- {text}"))
        else:
            found.append((BlockKind.PARAGRAPH, text))
    return found


def _text(paragraph: Any, left_out: Counter[str]) -> str:
    parts: list[str] = []
    for item in paragraph._p:
        if item.tag == _A + "br":
            parts.append("\n")
        if item.tag not in {_A + "r", _A + "fld"}:
            continue
        properties = item.find(_A + "rPr")
        text = item.findtext(_A + "t") or ""
        if properties is not None and properties.get("strike") in {"sngStrike", "dblStrike"}:
            left_out["struck"] += len(text)
            continue
        link = properties.find(_A + "hlinkClick") if properties is not None else None
        target = _target(paragraph, link.get(_R_ID)) if link is not None else None
        parts.append(linked(text, target))
    return "".join(parts)


def _target(paragraph: Any, identifier: str | None) -> str | None:
    relation = paragraph.part.rels.get(identifier) if identifier else None
    return relation.target_ref if relation is not None and relation.is_external else None


def _number(paragraph: Any, level: int, counters: dict[int, tuple[str, int]]) -> str | None:
    """The automatic number of a paragraph; a paragraph without one ends the numbers of its level and of deeper ones."""
    automatic = paragraph._p.find(f"{_A}pPr/{_A}buAutoNum")
    for deeper in [at for at in counters if at > level or (at == level and automatic is None)]:
        del counters[deeper]
    if automatic is None:
        return None
    kind = automatic.get("type") or "arabicPeriod"
    start = automatic.get("startAt") or "1"
    first = int(start) if start.isascii() and start.isdigit() and len(start) < 6 else 1
    before, number = counters.get(level, ("", 0))
    number = number + 1 if before == kind else first
    counters[level] = (kind, number)
    for ending, pattern in _ENDINGS.items():
        if kind.endswith(ending):
            return pattern.format(number_text(number, _SCHEMES.get(kind.removesuffix(ending), "decimal")))
    return number_text(number, _SCHEMES.get(kind, "decimal"))
