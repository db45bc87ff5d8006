"""One PDF page as pypdfium2 sees it: characters and their boxes, as the page is shown.

PDFium gives boxes in the page's own coordinates, before `/Rotate`. Everything behind this module thinks in the page as
a reader sees it: points, origin at the lower left of what is shown, y upwards.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ingest.extract.pdf_lines import Line

_BOLD = re.compile(r"bold|black|heavy|demi|-W[6-9]\b", re.IGNORECASE)
_HYPHENS = str.maketrans({"\ufffe": None, "\x02": None})
"""How pypdfium2 marks the hyphen of a word that it has put together again over a line end."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1."""


@dataclass(frozen=True, slots=True)
class Frame:
    """From a page's own coordinates to those of the page as it is shown."""

    left: float
    bottom: float
    right: float
    top: float
    turn: int
    """Clockwise, in degrees: 0, 90, 180 or 270."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height as shown."""
        width, height = self.right - self.left, self.top - self.bottom
        return (height, width) if self.turn in {90, 270} else (width, height)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is shown."""
        if self.turn == 90:
            return y - self.bottom, self.right - x
        if self.turn == 180:
            return self.right - x, self.top - y
        if self.turn == 270:
            return self.top - y, x - self.left
        return x - self.left, y - self.bottom

    def box(self, left: float, bottom: float, right: float, top: float) -> Box:
        """Where a box is shown."""
        x0, y0 = self.point(left, bottom)
        x1, y1 = self.point(right, top)
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def frame_of(page: Any) -> Frame:
    """The frame of a pypdfium2 page."""
    left, bottom, right, top = page.get_bbox()
    return Frame(left, bottom, right, top, int(page.get_rotation()))


class PageText:
    """The characters of a page in the order of its content stream."""

    def __init__(self, page: Any, text_page: Any) -> None:
        self.frame = frame_of(page)
        self._raw = text_page.raw
        self._text_page = text_page
        self.chars = _characters(text_page)
        """A string per character of PDFium: empty for the second half of a surrogate pair."""

    def box(self, at: int) -> Box:
        """Box of a character: its advance by the height of its font.

        Raises:
            PdfiumError: there is no such character.
        """
        return self.frame.box(*self._text_page.get_charbox(at, loose=True))

    def boxes(self) -> list[Box]:
        """Boxes of all characters."""
        import pypdfium2.raw as pdfium

        ask, raw, box, frame = pdfium.FPDFText_GetLooseCharBox, self._raw, pdfium.FS_RECTF(), self.frame
        found: list[Box] = []
        for at in range(len(self.chars)):
            ask(raw, at, box)
            if frame.turn:
                found.append(frame.box(box.left, box.bottom, box.right, box.top))
            else:
                x, y = frame.left, frame.bottom
                found.append((box.left - x, box.bottom - y, box.right - x, box.top - y))
        return found

    def is_bold(self, at: int) -> bool:
        """Whether the font of a character says so in its name."""
        import pypdfium2.raw as pdfium

        buffer = ctypes.create_string_buffer(128)
        length = pdfium.FPDFText_GetFontInfo(self._raw, at, buffer, len(buffer), ctypes.c_int())
        name = buffer.raw[: max(0, min(int(length) - 1, 127))].decode("utf-8", errors="replace")
        return bool(_BOLD.search(name))

    def runs(self) -> Iterator[tuple[int, int]]:
        """Ranges of characters that PDFium takes for lines, without white space around them."""
        start = 0
        for at in range(len(self.chars) + 1):
            if at == len(self.chars) or self.chars[at] in {"\r", "\n"}:
                trimmed = self.trimmed(start, at)
                if trimmed[0] < trimmed[1]:
                    yield trimmed
                start = at + 1

    def trimmed(self, start: int, end: int) -> tuple[int, int]:
        """A range without the white space at its ends."""
        while start < end and not self.chars[start].strip():
            start += 1
        while end > start and not self.chars[end - 1].strip():
            end -= 1
        return start, end

    def shown(self, start: int, end: int) -> str:
        """Text of a range."""
        return "".join(self.chars[start:end]).translate(_HYPHENS)

    def line(self, start: int, end: int) -> Line | None:
        """A range as a line, its box from its first and last character; None where nothing is seen."""
        text = self.shown(start, end)
        if not text.strip():
            return None
        first, last = self.box(start), self.box(end - 1)
        x0, y0, x1, y1 = _around((first, last))
        size = max(first[3] - first[1], 0.1)
        vertical = end - start > 2 and y1 - y0 > 2.5 * size and x1 - x0 < 2 * size
        loose = text[-1].isdecimal() and self._is_loose(start, end, size)
        return Line(text, x0, y0, x1, y1, size, bold=self.is_bold(start), vertical=vertical, loose_end=loose)

    def _is_loose(self, start: int, end: int, size: float) -> bool:
        """Whether the last word of a range stands apart from what is before it."""
        at = end
        while at > start and self.chars[at - 1].strip():
            at -= 1
        before = self.trimmed(start, at)[1]
        return before > start and self.box(at)[0] - self.box(before - 1)[2] > 2 * size

    def piece_count(self) -> int:
        """Boxes that PDFium parts the text into, roughly one for each text object."""
        return int(self._text_page.count_rects())

    def pieces(self) -> list[Box]:
        """Those boxes, in the order of the content stream."""
        return [self.frame.box(*self._text_page.get_rect(at)) for at in range(self.piece_count())]


def _around(boxes: Sequence[Box]) -> Box:
    return (
        min(box[0] for box in boxes),
        min(box[1] for box in boxes),
        max(box[2] for box in boxes),
        max(box[3] for box in boxes),
    )


def _characters(text_page: Any) -> list[str]:
    """One string for each character of PDFium, whose index its boxes go by."""
    import pypdfium2.raw as pdfium

    count = text_page.count_chars()
    text = text_page.get_text_range() if count else ""
    if len(text) == count:
        return list(text)
    # Characters that PDFium leaves out of the text, or pairs of surrogates: asked for one by one.
    chars: list[str] = []
    for at in range(count):
        code = int(pdfium.FPDFText_GetUnicode(text_page.raw, at))
        if 0xDC00 <= code <= 0xDFFF and chars and "\ud800" <= chars[-1] <= "\udbff":
            chars[-1] = (chars[-1] + chr(code)).encode("utf-16", "surrogatepass").decode("utf-16")
            chars.append("")
        else:
            chars.append(chr(code) if 0 < code <= 0x10FFFF else "")
    return ["\ufffd" if "\ud800" <= char <= "\udfff" else char for char in chars]
