"""One PDF page as pypdfium2 sees it: characters and their boxes, as the page is shown.

PDFium gives boxes in the page's own coordinates, before `/Rotate`. Everything behind this module thinks in the page as
a reader sees it: points, origin at the lower left of what is shown, y upwards.

For a font that is not embedded PDFium takes one of the machine's, and that may lack the letters. Their text and their
advance are known all the same, but their glyphs are empty: PDFium then gives boxes without height, and leaves out text
objects whose glyphs together have no width (one letter, or text that runs up the page). What is read must not depend on
the fonts of the machine, so `text_page_of` and `PageText.pieces` mend both.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ingest.extract.pdf_lines import Line

_BOLD = re.compile(r"bold|black|heavy|demi|-W[6-9]\b", re.IGNORECASE)
_HYPHENS = str.maketrans({"\ufffe": None, "\x02": None})
"""How pypdfium2 marks the hyphen of a word that it has put together again over a line end."""

_EMPTY = ctypes.c_float(0.01).value
"""Below this width or height, in points, PDFium takes a box for empty; for an empty glyph it gives just about this."""
_FLAT = 2 * _EMPTY
_THIN = 2.0
"""In points; no glyph of up to 200 points that is wider and higher is empty."""
_STROKE = 0.25
"""Extent that letters without a glyph are given, in sizes of their font. PDFium parts lines by the extents of their
objects: of 0.1 and less it takes no notice, and from 0.4 it can take the letters of a line for lines."""
_MAX_STROKE = 1_000.0
"""In points; a damaged page may ask for any size, infinite ones too."""

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


def text_page_of(page: Any) -> Any:
    """The text of a pypdfium2 page, letters included for which its stand-in fonts have no glyph.

    PDFium counts the width of a stroke into the extent of a text object, so objects without extent have a stroke while
    the text is loaded.
    """
    import pypdfium2.raw as pdfium

    left, bottom, right, top, size, width = (ctypes.c_float() for _ in range(6))
    matrix = pdfium.FS_MATRIX()
    stroked: list[tuple[Any, int, float]] = []
    for item in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_TEXT], max_depth=5):
        pdfium.FPDFPageObj_GetBounds(item.raw, left, bottom, right, top)
        across, up = right.value - left.value, top.value - bottom.value
        if across >= _FLAT and up >= _FLAT:
            continue
        if pdfium.FPDFFont_GetIsEmbedded(pdfium.FPDFTextObj_GetFont(item.raw)):
            continue  # an empty glyph of its own font is meant to be empty
        pdfium.FPDFPageObj_GetMatrix(item.raw, matrix)
        if across * abs(matrix.a) + up * abs(matrix.b) < across * abs(matrix.c) + up * abs(matrix.d):
            continue  # vertical lines, which only the second reading puts in order
        pdfium.FPDFTextObj_GetFontSize(item.raw, size)
        stroke = _STROKE * abs(size.value) * math.hypot(matrix.c, matrix.d)
        if not 0 < stroke < _MAX_STROKE:
            continue
        pdfium.FPDFPageObj_GetStrokeWidth(item.raw, width)
        stroked.append((item, pdfium.FPDFTextObj_GetTextRenderMode(item.raw), width.value))
        pdfium.FPDFTextObj_SetTextRenderMode(item.raw, pdfium.FPDF_TEXTRENDERMODE_FILL_STROKE)
        pdfium.FPDFPageObj_SetStrokeWidth(item.raw, stroke)
        pdfium.FPDFPageObj_Transform(item.raw, 1, 0, 0, 1, 0, 0)  # it measures itself again
    text_page = page.get_textpage()
    for item, mode, thickness in stroked:
        pdfium.FPDFTextObj_SetTextRenderMode(item.raw, mode)
        pdfium.FPDFPageObj_SetStrokeWidth(item.raw, thickness)
    return text_page


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

    def pieces(self, start: int = 0, end: int | None = None) -> list[Box]:
        """Where the text objects of a range stand: around their glyphs, in the order of the content stream."""
        import pypdfium2.raw as pdfium

        ask, owner_of, raw = pdfium.FPDFText_GetCharBox, pdfium.FPDFText_GetTextObject, self._raw
        left, right, bottom, top = (ctypes.c_double() for _ in range(4))
        found: list[Box] = []
        owner: int | None = None
        for at in range(start, len(self.chars) if end is None else end):
            ask(raw, at, left, right, bottom, top)
            box = left.value, bottom.value, right.value, top.value
            least = min(box[2] - box[0], box[3] - box[1])
            if least < _THIN and self.chars[at].strip():
                whole = self._text_page.get_charbox(at, loose=True)
                # An empty glyph is a thousandth of its font's size.
                if least < _FLAT or least < 0.01 * (whole[3] - whole[1]):
                    box = whole
            elif least < _EMPTY:
                continue  # white space
            current = ctypes.cast(owner_of(raw, at), ctypes.c_void_p).value
            if found and current == owner:
                found[-1] = _around((found[-1], box))
            else:
                found.append(box)
            owner = current
        return [self.frame.box(*box) for box in found]


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
