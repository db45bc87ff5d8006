"""Tables, running lines and list numbers of PDFs that the tests draw themselves."""

import ctypes
import io
from collections.abc import Callable, Sequence
from typing import Any

import pypdfium2.raw as pdfium
import pytest
from pypdfium2 import PdfDocument
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from core.types import BlockKind, ExtractedDocument
from generation.evidence.computing.grids import grids_of
from ingest.extract import extract_document
from ingest.extract.pdf_page import PageText, text_page_of

MINCHO = "HeiseiMin-W3"
pdfmetrics.registerFont(UnicodeCIDFont(MINCHO))
BODY = ParagraphStyle("body", fontName=MINCHO, fontSize=10, leading=15, wordWrap="CJK")
RULED = [("GRID", (0, 0), (-1, -1), 0.5, colors.black), ("FONTNAME", (0, 0), (-1, -1), MINCHO)]


def read(data: bytes) -> ExtractedDocument:
    return extract_document(data, "a.pdf", max_chars=1_000_000)


def platypus(story: Sequence[Any], on_page: Callable[[Canvas, Any], None] | None = None) -> ExtractedDocument:
    target = io.BytesIO()
    template = SimpleDocTemplate(target, pagesize=A4)
    drawn = on_page or (lambda canvas, template: None)
    template.build(list(story), onFirstPage=drawn, onLaterPages=drawn)
    return read(target.getvalue())


def drawn(draw: Callable[[Canvas], None]) -> ExtractedDocument:
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    canvas.setFont(MINCHO, 10)
    draw(canvas)
    canvas.save()
    return read(target.getvalue())


def turned_by(data: bytes, turn: int) -> bytes:
    document = PdfDocument(data)
    document[0].set_rotation(turn)
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


def of_kind(document: ExtractedDocument, kind: BlockKind) -> list[str]:
    return [document.text[block.start : block.end] for block in document.blocks if block.kind is kind]


def rows(document: ExtractedDocument) -> list[str]:
    return [line for table in of_kind(document, BlockKind.TABLE) for line in table.split("\n")]


def test_a_wrapped_cell_is_one_text_and_stays_in_its_row() -> None:
    long = Paragraph("週三日以上在宅で勤務し、通信回線を業務に使う者に支給する。", BODY)
    table = Table(
        [["手当", "条件", "額"], ["在宅手当", long, "月3,500円"], ["夜勤手当", "深夜に働く者", "1回2,000円"]],
        [80, 150, 90],
    )
    table.setStyle(TableStyle([*RULED, ("VALIGN", (0, 0), (-1, -1), "MIDDLE")]))
    assert rows(platypus([table])) == [
        "手当: 在宅手当 | 条件: 週三日以上在宅で勤務し、通信回線を業務に使う者に支給する。 | 額: 月3,500円",
        "手当: 夜勤手当 | 条件: 深夜に働く者 | 額: 1回2,000円",
    ]


def test_a_table_over_pages_with_its_header_repeated_is_one_table() -> None:
    data = [["番号", "品名"], *([f"K-{n:03}", f"部品その{n}"] for n in range(1, 91))]
    table = Table(data, [80, 200], repeatRows=1)
    table.setStyle(TableStyle(RULED))
    document = platypus([table])
    assert (document.page_count or 0) > 1
    assert rows(document) == [f"番号: K-{n:03} | 品名: 部品その{n}" for n in range(1, 91)]
    # a block a page: a row is cited with the page that it stands on
    tables = [block for block in document.blocks if block.kind is BlockKind.TABLE]
    assert [block.page for block in tables] == list(range(1, (document.page_count or 0) + 1))
    assert [grid.rows[-1].page for grid in grids_of(document.text, document.blocks)] == [document.page_count]
    assert "K-001" in document.text[tables[0].start : tables[0].end]
    assert "K-090" in document.text[tables[-1].start : tables[-1].end]


def test_columns_without_lines_are_a_table_too() -> None:
    entries = [
        ("品番", "品名", "単価"),
        ("A-10", "温度計", "1,200円"),
        ("A-20", "湿度計", "3,400円"),
        ("B-05", "風速計（携帯用）", "12,800円"),
    ]

    def draw(canvas: Canvas) -> None:
        canvas.drawString(60, 740, "次の表は今年の単価です。")
        for at, row in enumerate(entries):
            for x, cell in zip((60, 160, 330), row, strict=True):
                canvas.drawString(x, 700 - 18 * at, cell)

    document = drawn(draw)
    assert rows(document) == [f"品番: {a} | 品名: {b} | 単価: {c}" for a, b, c in entries[1:]]
    assert of_kind(document, BlockKind.PARAGRAPH) == ["次の表は今年の単価です。"]


def test_level_lines_alone_part_the_rows_and_wrapped_cells_stay_whole() -> None:
    long = Paragraph("申込みから七日以内に取り消すときは、手数料を取らない。", BODY)
    table = Table(
        [
            ["区分", "取扱い", "備考"],
            ["取消し", long, "書面"],
            ["変更", "一回まで無料", "電話可"],
            ["延期", "できない", "なし"],
        ],
        [90, 140, 100],
    )
    table.setStyle(
        TableStyle(
            [
                ("FONTNAME", (0, 0), (-1, -1), MINCHO),
                ("LINEBELOW", (0, 0), (-1, -1), 0.5, colors.black),
                ("LINEABOVE", (0, 0), (-1, 0), 0.5, colors.black),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
            ]
        )
    )
    assert rows(platypus([table])) == [
        "区分: 取消し | 取扱い: 申込みから七日以内に取り消すときは、手数料を取らない。 | 備考: 書面",
        "区分: 変更 | 取扱い: 一回まで無料 | 備考: 電話可",
        "区分: 延期 | 取扱い: できない | 備考: なし",
    ]


def test_prose_in_two_columns_is_no_table() -> None:
    left = [
        "会議は毎月第二火曜日に開き、議長は",
        "部長が務める。議題は三日前までに事",
        "務局へ届け出るものとし、急を要する",
    ]
    right = [
        "場合は当日でもよい。議事録は書記が",
        "作り、出席者の確認を受けたうえで五",
        "年間保存する。閲覧は誰でもできる。",
    ]

    def draw(canvas: Canvas) -> None:
        for x, lines in ((60, left), (320, right)):
            for at, line in enumerate(lines):
                canvas.drawString(x, 700 - 15 * at, line)

    document = drawn(draw)
    assert not rows(document)
    assert document.text == "".join(left + right)


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_turned_page_is_read_as_it_is_shown(turn: int) -> None:
    target = io.BytesIO()
    table = Table([["型式", "質量"], ["R-1", "12kg"], ["R-2", "15kg"]], [100, 100])
    table.setStyle(TableStyle(RULED))
    # drawn so that it reads upright once the page is turned
    canvas = Canvas(target, pagesize=A4)
    canvas.translate(A4[0] / 2, A4[1] / 2)
    canvas.rotate(turn)
    table.wrapOn(canvas, 400, 400)
    table.drawOn(canvas, -100, 100)
    canvas.save()
    assert rows(read(turned_by(target.getvalue(), turn))) == ["型式: R-1 | 質量: 12kg", "型式: R-2 | 質量: 15kg"]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_letters_without_a_glyph_on_this_machine_are_read_in_their_lines(turn: int) -> None:
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    canvas.translate(A4[0] / 2, A4[1] / 2)
    canvas.rotate(turn)
    canvas.setFont(MINCHO, 12)
    canvas.drawString(-200, 200, "倉庫の鍵は守衛室で受け取ること。")
    canvas.drawString(-200, 184, "帰るときは必ず返すこと。")
    canvas.drawString(-200, 168, "金")  # PDFium leaves out an object of one letter where that has no glyph
    for at, letter in enumerate("一字ごとに置いた行。"):
        canvas.drawString(-200 + 12 * at, 152, letter)
    canvas.beginForm("stamp")
    canvas.setFont(MINCHO, 12)
    canvas.drawString(0, 0, "済")
    canvas.endForm()
    canvas.translate(-200, 60)
    canvas.doForm("stamp")
    canvas.save()
    lines = ["倉庫の鍵は守衛室で受け取ること。", "帰るときは必ず返すこと。", "金", "一字ごとに置いた行。", "済"]
    data = turned_by(target.getvalue(), turn)
    page = PdfDocument(data)[0]
    text = PageText(page, text_page_of(page))
    assert [text.shown(start, end) for start, end in text.runs()] == lines
    document = read(data)
    assert "".join(document.text.split()) == "".join(lines)
    assert document.quality["engine"] == "pypdfium2"


def strokes_of(page: Any) -> list[tuple[int, float]]:
    """How each text object is drawn: its mode, and the width of its stroke."""
    found = []
    for item in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_TEXT]):
        width = ctypes.c_float()
        pdfium.FPDFPageObj_GetStrokeWidth(item.raw, width)
        found.append((pdfium.FPDFTextObj_GetTextRenderMode(item.raw), width.value))
    return found


def test_pieces_have_the_height_of_their_letters_whatever_fonts_the_machine_has() -> None:
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    canvas.setFont(MINCHO, 10)
    canvas.drawString(70, 700, "温度計A-10")
    canvas.drawString(200, 700, "円")
    canvas.setFont("Helvetica", 10)
    canvas.drawString(300, 700, "Thermometer")
    canvas.save()
    page = PdfDocument(target.getvalue())[0]
    before = strokes_of(page)
    text_page = text_page_of(page)
    text = PageText(page, text_page)
    *japanese, latin = text.pieces()
    for (x0, y0, x1, y1), (left, right) in zip(japanese, [(70, 122), (200, 210)], strict=True):
        assert left - 1 <= x0 < left + 3 and right - 5 < x1 <= right + 3
        assert 690 < y0 < 702 and 6 < y1 - y0 < 14
    # glyphs that are there are measured as PDFium does
    text_page.count_rects()
    assert latin == text.frame.box(*text_page.get_rect(2))
    # the page is drawn as it was
    assert strokes_of(page) == before


def furniture(canvas: Canvas, template: Any) -> None:
    canvas.setFont(MINCHO, 9)
    canvas.drawString(70, 810, "文書管理規程")
    canvas.drawRightString(530, 810, "総務部")
    canvas.drawCentredString(300, 30, f"- {canvas.getPageNumber()} -")


@pytest.mark.parametrize("count", [30, 60])
def test_running_lines_and_page_numbers_are_left_out_and_counted(count: int) -> None:
    story = [
        p for n in range(count) for p in (Paragraph(f"第{n}の定めは、担当{n}課がこれを行う。", BODY), Spacer(1, 10))
    ]
    document = platypus(story, furniture)
    assert (document.page_count or 0) >= 2
    assert "総務部" not in document.text
    assert "- 1 -" not in document.text
    assert document.quality["running_lines"] == 2 * (document.page_count or 0)
    assert all(f"第{n}の定めは、担当{n}課がこれを行う。" in document.text for n in range(count))


def test_paragraphs_at_the_same_place_on_every_page_are_no_running_lines() -> None:
    def draw(canvas: Canvas) -> None:
        for page in range(1, 4):
            canvas.setFont(MINCHO, 10)
            canvas.drawString(70, 810, "社外秘")
            for at, line in enumerate(
                ["共通の手順は次のとおりとする。", f"第{page}工程では圧力を{page * 7}MPaとする。", "終了後に記録する。"]
            ):
                canvas.drawString(70, 760 - 16 * at, line)
            canvas.showPage()

    document = drawn(draw)
    assert "社外秘" not in document.text
    assert document.text.count("共通の手順は次のとおりとする。") == 3


def test_headings_that_count_with_the_pages_stay() -> None:
    def draw(canvas: Canvas) -> None:
        for page in range(1, 5):
            canvas.setFont(MINCHO, 10)
            canvas.drawString(70, 800, f"B.{page} 型式RT-{page}00")
            canvas.drawString(70, 700, f"この型式の質量は{page * 11}kgです。")
            canvas.showPage()

    document = drawn(draw)
    assert all(f"型式RT-{page}00" in document.text for page in range(1, 5))


def test_a_number_at_the_start_of_a_line_may_belong_to_its_sentence() -> None:
    story = [
        Paragraph(
            "(1) 備品を社外に持ち出すときは、あらかじめ所属長の承認を受け、<br/>持出簿（帳票第<br/>7）に記入する。",
            BODY,
        ),
        Paragraph("(2) 返却は翌日までとする。", BODY),
    ]
    document = platypus(story)
    assert "持出簿（帳票第7）に記入する。" in document.text
    assert of_kind(document, BlockKind.LIST_ITEM)[-1] == "(2) 返却は翌日までとする。"


def test_a_sentence_goes_on_over_the_page() -> None:
    filler = [Paragraph(f"{n}番目の項は空とする。", BODY) for n in range(46)]
    long = Paragraph(
        "保存期間を過ぎた文書は、" + "裁断または溶解の方法により、" * 12 + "廃棄しなければならない。", BODY
    )
    document = platypus([*filler, long, Paragraph("以上。", BODY)])
    assert (document.page_count or 0) == 2
    assert (
        "保存期間を過ぎた文書は、" + "裁断または溶解の方法により、" * 12 + "廃棄しなければならない。" in document.text
    )
