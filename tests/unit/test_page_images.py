"""Spans of the extracted text are found on their pages: the marked boxes cover what was drawn there."""

import io
from collections.abc import Callable

import pytest
from PIL import Image
from pypdfium2 import PdfDocument
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Table, TableStyle

from core.errors import NotFound
from core.types import ExtractedDocument, PlacedText
from ingest.extract import extract_document
from ingest.extract.page_image import PageImage, draw_page
from ingest.page_images import marks_of

FONT = "HeiseiKakuGo-W5"
pdfmetrics.registerFont(UnicodeCIDFont(FONT))
Box = tuple[float, float, float, float]


def pdf_of(draw: Callable[[Canvas], None], turn: int = 0) -> bytes:
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    canvas.setFont(FONT, 12)
    draw(canvas)
    canvas.save()
    if not turn:
        return target.getvalue()
    document = PdfDocument(target.getvalue())
    for page in document:
        page.set_rotation(turn)
    turned = io.BytesIO()
    document.save(turned)
    return turned.getvalue()


def drawn(data: bytes, document: ExtractedDocument, start: int, end: int, page: int = 1) -> PageImage:
    blocks = [[block.kind.value, block.start, block.end, block.page, block.level] for block in document.blocks]
    places = [place for place in document.places if place.page == page]
    return draw_page(data, page, marks_of(document.text, blocks, start, end, page), places)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_the_box_covers_the_span_on_upright_and_turned_pages(turn: int) -> None:
    width = pdfmetrics.stringWidth

    def draw(canvas: Canvas) -> None:
        canvas.drawString(70, 700, "見積の有効期限は発行日から")
        canvas.drawString(70 + width("見積の有効期限は発行日から", FONT, 12), 700, "四十五日")
        canvas.drawString(70 + width("見積の有効期限は発行日から四十五日", FONT, 12), 700, "とします。")

    data = pdf_of(draw, turn)
    document = extract_document(data, "a.pdf", max_chars=10_000)
    start = document.text.index("四十五日")
    image = drawn(data, document, start, start + 4)
    (box,) = image.boxes
    # where the four letters were drawn, turned by hand
    left, bottom = 70 + width("見積の有効期限は発行日から", FONT, 12), 700 - 0.12 * 12
    right, top = left + 4 * 12, bottom + 12
    wide, high = A4
    wanted = {
        0: (left, high - top, right, high - bottom),
        90: (bottom, left, top, right),
        180: (wide - right, bottom, wide - left, top),
        270: (high - top, wide - right, high - bottom, wide - left),
    }[turn]
    picture = Image.open(io.BytesIO(image.png))
    scale = picture.width / (wide if turn in {0, 180} else high)
    # a glyph fills most of its square, and the box of one that the machine lacks hangs a little lower
    assert overlap(box, tuple(scale * edge for edge in wanted)) > 0.65  # type: ignore[arg-type]
    # the paper inside is marked, and nothing outside is
    marked = [
        (x, y)
        for y in range(picture.height)
        for x in range(picture.width)
        if (pixel := picture.getpixel((x, y))) and isinstance(pixel, tuple) and pixel[0] > 200 > pixel[2] + 60
    ]
    assert marked
    xs, ys = [x for x, _ in marked], [y for _, y in marked]
    assert overlap((min(xs), min(ys), max(xs) + 1, max(ys) + 1), box) > 0.95


@pytest.mark.parametrize("size", [8, 20, 36])
def test_large_letters_are_marked_in_their_height_whatever_fonts_there_are(size: int) -> None:
    width = pdfmetrics.stringWidth

    def draw(canvas: Canvas) -> None:
        canvas.setFont(FONT, size)
        canvas.drawString(40, 700, "返却期限は")
        canvas.drawString(40 + width("返却期限は", FONT, size), 700, "九日間")

    data = pdf_of(draw)
    document = extract_document(data, "a.pdf", max_chars=10_000)
    start = document.text.index("九日間")
    image = drawn(data, document, start, start + 3)
    (box,) = image.boxes
    points = A4[0] / Image.open(io.BytesIO(image.png)).width
    assert 0.7 * size < points * (box[3] - box[1]) < 1.3 * size
    assert abs(points * (box[2] - box[0]) - 3 * size) < 0.2 * size


def table_pdf() -> bytes:
    rows = [
        ["区分", "平日", "休日"],
        ["第一会議室", "800", "800"],
        ["第二会議室", "800", "1,200"],
        ["和室", "500", "800"],
    ]

    def draw(canvas: Canvas) -> None:
        table = Table(rows, [120, 80, 80], [20] * 4)
        table.setStyle(
            TableStyle([("FONTNAME", (0, 0), (-1, -1), FONT), ("GRID", (0, 0), (-1, -1), 0.5, colors.black)])
        )
        table.wrapOn(canvas, 400, 400)
        table.drawOn(canvas, 70, 600)  # rows from 680 down, 20 points each

    return pdf_of(draw)


@pytest.mark.parametrize(
    ("row", "column", "line"),
    [("第一会議室", 1, 1), ("第一会議室", 2, 1), ("第二会議室", 1, 2), ("和室", 2, 3)],
)
def test_a_value_that_stands_in_many_cells_is_marked_in_its_own(row: str, column: int, line: int) -> None:
    data = table_pdf()
    document = extract_document(data, "a.pdf", max_chars=10_000)
    text = next(text for text in document.text.split("\n") if row in text)
    at = document.text.index(": ", document.text.index(["平日", "休日"][column - 1], document.text.index(text))) + 2
    end = at + (5 if document.text[at : at + 5] == "1,200" else 3)
    image = drawn(data, document, at, end)
    (box,) = image.boxes
    scale = Image.open(io.BytesIO(image.png)).width / A4[0]
    middle = ((box[0] + box[2]) / 2 / scale, A4[1] - (box[1] + box[3]) / 2 / scale)
    assert 70 + 120 + 80 * (column - 1) < middle[0] < 70 + 120 + 80 * column
    assert 680 - 20 * (line + 1) < middle[1] < 680 - 20 * line


def test_a_whole_row_marks_its_values() -> None:
    data = table_pdf()
    document = extract_document(data, "a.pdf", max_chars=10_000)
    line = next(text for text in document.text.split("\n") if "第二会議室" in text)
    at = document.text.index(line)
    image = drawn(data, document, at, at + len(line))
    assert len(image.boxes) == 3
    assert max(box[1] for box in image.boxes) - min(box[1] for box in image.boxes) < 8


def test_of_two_equal_sentences_the_cited_one_is_marked() -> None:
    def draw(canvas: Canvas) -> None:
        for at, text in enumerate(["第一の規則。", "違反は届け出る。", "第二の規則。", "違反は届け出る。"]):
            canvas.drawString(70, 700 - 60 * at, text)

    data = pdf_of(draw)
    document = extract_document(data, "a.pdf", max_chars=10_000)
    second = document.text.rindex("届け出る")
    (box,) = drawn(data, document, second, second + 4).boxes
    (first,) = drawn(data, document, document.text.index("届け出る"), document.text.index("届け出る") + 4).boxes
    assert box[1] > first[1] + 100


def test_of_a_scan_the_part_of_a_line_is_marked() -> None:
    places = [PlacedText(1, "納品日令和7年5月9日", 0.1, 0.2, 0.5, 0.24), PlacedText(1, "担当", 0.6, 0.2, 0.7, 0.24)]
    target = io.BytesIO()
    Image.new("L", (1000, 1400), 255).save(target, "PNG")
    text = "納品日: 令和7年5月9日"
    image = draw_page(target.getvalue(), 1, marks_of(text, [["table", 0, len(text), 1, None]], 5, len(text), 1), places)
    (box,) = image.boxes
    assert 180 < box[0] < 260 and 480 < box[2] < 510
    with pytest.raises(NotFound) as caught:
        draw_page(target.getvalue(), 2, [], [])
    assert caught.value.code == "no_such_page"
