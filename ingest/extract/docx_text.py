"""Text of one DOCX paragraph as a reader sees it: field results, link targets, ticked boxes, notes by number.

Struck, hidden and deleted text is left out and counted, in characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ingest.extract.docx_styles import Style, Styles, W, small_int, toggle, value_of
from ingest.extract.inline import Inline
from ingest.extract.links import linked
from ingest.extract.numerals import number_text

MC_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_R_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_W14 = "{http://schemas.microsoft.com/office/word/2010/wordml}"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_DELETED = frozenset({W + "del", W + "moveFrom"})
_APART = frozenset({W + "p", W + "tbl", W + "pPr", W + "rPr", W + "rt", W + "sdtPr", MC_FALLBACK})
_PAGE_FIELDS = frozenset({"PAGE", "NUMPAGES", "SECTIONPAGES"})
_TICK = {True: "☑", False: "☐"}
_SYMBOLS = {
    "wingdings": {0xFE: "☑", 0xFD: "☒", 0xA8: "☐", 0x6F: "☐", 0xFC: "✓", 0xFB: "✗", 0xE0: "→", 0xF0: "⇨", 0x6C: "●",
                  0x6E: "■", 0xA1: "○", 0x9F: "•", 0xA7: "▪"},
    "wingdings 2": {0x52: "☑", 0x54: "☒", 0xA3: "☐", 0x50: "✓", 0x4F: "✗"},
    "symbol": {0x6D: "μ", 0xB0: "°", 0xB1: "±", 0xB3: "≥", 0xA3: "≤", 0xB4: "×", 0xB8: "÷", 0x44: "Δ", 0x57: "Ω",
               0x61: "α", 0x62: "β", 0x67: "γ", 0x70: "π", 0xB7: "•", 0xAE: "→", 0xB9: "≠", 0xA5: "∞", 0x53: "Σ"},
}  # fmt: skip


Note = tuple[str, tuple[str, Any]]
"""The mark of a note in the text, and where it stands: name of its part, its element."""


@dataclass(slots=True)
class _Field:
    """A complex field: `begin`, its code, `separate`, its result, `end`. opened: its result is the text of a link."""

    code: list[str] = field(default_factory=list)
    in_result: bool = False
    opened: bool = False

    def name(self) -> str:
        return next(iter("".join(self.code).split()), "").upper()

    def target(self) -> str | None:
        """Address of a HYPERLINK field; None for a place inside the document."""
        words = "".join(self.code).split()
        return words[1].strip('"') if len(words) > 1 and words[0].upper() == "HYPERLINK" else None


class ParagraphReader:
    """Reads paragraphs in document order: fields may reach over several, and notes are numbered as they come."""

    def __init__(self, styles: Styles, notes: Mapping[tuple[str, str], tuple[str, Any]]) -> None:
        self._styles = styles
        self._notes = notes
        self._fields: list[_Field] = []
        self._numbers: Counter[str] = Counter()
        self._inline = Inline()
        self._outer: list[Inline] = []
        self._marks: list[Note] = []
        self.left_out: Counter[str] = Counter()
        self.addresses: Mapping[str, str] = {}
        """Relationship id to the address that it names, of the part being read."""

    def read(self, paragraph: Any, style: Style) -> tuple[str, list[Note]]:
        """Text of one paragraph and its notes; paragraphs and tables inside it (text boxes) come on their own."""
        self._inline, self._outer, self._marks = Inline(), [], []
        stack: list[Any] = list(reversed(paragraph))
        while stack:
            element = stack.pop()
            if isinstance(element, _Link):
                self._close_link(element.target)
                continue
            tag = element.tag
            if not isinstance(tag, str) or tag in _APART:
                continue
            if tag in _DELETED:
                self.left_out["deleted"] += _length(element)
            elif tag == W + "r" and (why := self._why_left_out(element, style)) is not None:
                self.left_out[why] += _length(element)
                stack.extend(child for child in reversed(element) if child.tag in {W + "fldChar", W + "instrText"})
            elif tag == W + "hyperlink":
                self._open_link()
                stack.append(_Link(self.addresses.get(element.get(_R_ID) or "")))
                stack.extend(reversed(element))
            elif tag == W + "ruby":
                base, reading = (_plain(element.find(W + name)) for name in ("rubyBase", "rt"))
                self._inline.add_ruby(base, reading)
            elif tag == W + "sdt" and element.find(f"{W}sdtPr/{_W14}checkbox") is not None:
                ticked = element.find(f"{W}sdtPr/{_W14}checkbox/{_W14}checked")
                self._inline.add(_TICK[ticked is not None and ticked.get(_W14 + "val") not in {"0", "false"}])
            elif tag == W + "fldSimple":
                if next(iter((element.get(W + "instr") or "").split()), "").upper() not in _PAGE_FIELDS:
                    stack.extend(reversed(element))
            elif not self._read_leaf(element):
                stack.extend(reversed(element))
        for open_field in self._fields:
            open_field.opened = False  # a link that goes on in the next paragraph; its target stands once
        while self._outer:
            self._close_link(None)
        text, readings = self._inline.take()
        return text.strip() + readings, self._marks

    def _why_left_out(self, run: Any, style: Style) -> str | None:
        properties = run.find(W + "rPr")
        named = self._styles[value_of(run, f"{W}rPr/{W}rStyle") or ""]
        hidden, struck = toggle(properties, "vanish"), toggle(properties, "strike", "dstrike")
        if style.hidden != named.hidden if hidden is None else hidden:
            return "hidden"
        return "struck" if (style.struck != named.struck if struck is None else struck) else None

    def _read_leaf(self, element: Any) -> bool:
        """Take in an element that holds no others; False where it does."""
        tag = element.tag
        if tag == W + "fldChar":
            self._field_mark(element)
        elif tag == W + "instrText":
            if self._fields and not self._fields[-1].in_result:
                self._fields[-1].code.append(element.text or "")
        elif any(item.in_result and item.name() in _PAGE_FIELDS for item in self._fields):
            return tag in {W + "t", W + "tab", W + "ptab"}  # the number of the page it was printed on
        elif tag in {W + "t", _MATH_TEXT}:
            self._inline.add(element.text or "")
        elif tag in {W + "tab", W + "ptab"}:
            self._inline.add("\t")
        elif tag in {W + "br", W + "cr"}:
            self._inline.add("\n")
        elif tag == W + "noBreakHyphen":
            self._inline.add("-")
        elif tag == W + "sym":
            self._inline.add(_symbol(element))
        elif tag in {W + "footnoteReference", W + "endnoteReference"}:
            self._add_note(element, tag.removeprefix(W).removesuffix("Reference"))
        else:
            return False
        return True

    def _field_mark(self, element: Any) -> None:
        kind = element.get(W + "fldCharType")
        if kind == "begin":
            self._fields.append(_Field())
            box = element.find(f"{W}ffData/{W}checkBox")
            if box is not None:
                on = toggle(box, "checked")
                self._inline.add(_TICK[bool(toggle(box, "default") if on is None else on)])
            choices = element.findall(f"{W}ffData/{W}ddList/{W}listEntry")
            chosen = small_int(value_of(element, f"{W}ffData/{W}ddList/{W}result"), 0)
            if chosen < len(choices):
                self._inline.add(choices[chosen].get(W + "val") or "")
        elif kind == "separate" and self._fields:
            self._fields[-1].in_result = True
            if self._fields[-1].target():
                self._fields[-1].opened = True
                self._open_link()
        elif kind == "end" and self._fields:
            ended = self._fields.pop()
            if ended.opened and self._outer:
                self._close_link(ended.target())

    def _open_link(self) -> None:
        self._outer.append(self._inline)
        self._inline = Inline()

    def _close_link(self, target: str | None) -> None:
        if self._outer:
            text, readings = self._inline.take()
            self._inline = self._outer.pop()
            self._inline.add(linked(text, target) + readings)

    def _add_note(self, element: Any, kind: str) -> None:
        note = self._notes.get((kind, element.get(W + "id") or ""))
        if note is None:
            return
        self._numbers[kind] += 1
        number_format = "decimal" if kind == "footnote" else "lowerRoman"
        mark = f"[{number_text(self._numbers[kind], number_format)}]"
        if element.get(W + "customMarkFollows") in {"1", "true"}:
            mark = ""
        self._inline.add(mark)
        self._marks.append((mark, note))


@dataclass(frozen=True, slots=True)
class _Link:
    """Where a link ends, on the stack of elements."""

    target: str | None


def _length(element: Any) -> int:
    return sum(len(item.text or "") for item in element.iter(W + "t", W + "delText"))


def _plain(element: Any | None) -> str:
    return "".join(item.text or "" for item in element.iter(W + "t")) if element is not None else ""


def _symbol(element: Any) -> str:
    """A character of a symbol font; one that has no twin in Unicode is left out."""
    code = element.get(W + "char") or ""
    try:
        value = int(code, 16)
    except ValueError:
        return ""
    known = _SYMBOLS.get((element.get(W + "font") or "").lower(), {})
    if value & 0xFF in known and (0xF000 <= value <= 0xF0FF or value <= 0xFF):
        return known[value & 0xFF]
    return chr(value) if 0x100 <= value < 0xD800 else ""
