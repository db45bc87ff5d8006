"""Extractors, one format at a time, on small documents made here."""

from __future__ import annotations

import io

import docx
import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

import ingest.extract.ocr
from core.errors import ExtractionFailed, UnsupportedFormat
from core.types import BlockKind, ExtractedDocument
from ingest.extract import extract_document
from ingest.extract.repair import repair_text
from tests.scans import joined_pdf, picture, scanned_pdf


def read(data: bytes | str, filename: str) -> ExtractedDocument:
    raw = data.encode() if isinstance(data, str) else data
    return extract_document(raw, filename, max_chars=1_000_000)


def blocks(document: ExtractedDocument) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def code_of(data: bytes | str, filename: str) -> str:
    with pytest.raises((ExtractionFailed, UnsupportedFormat)) as caught:
        read(data, filename)
    return caught.value.code


def pdf(draw: list[list[tuple[float, float, float, str]]], font: str = "Helvetica") -> bytes:
    """Pages of (x, y, size, text)."""
    pdfmetrics.registerFont(UnicodeCIDFont("HeiseiMin-W3"))
    target = io.BytesIO()
    canvas = Canvas(target, pagesize=A4)
    for page in draw:
        for x, y, size, text in page:
            canvas.setFont(font, size)
            canvas.drawString(x, y, text)
        canvas.showPage()
    canvas.save()
    return target.getvalue()


def test_markdown_keeps_structure_and_drops_markup() -> None:
    source = (
        "---\ntitle: 規程集\n---\n# 第一章\n\n**太字**と[リンク](https://x.example)と`code`。\n\n- 一\n- 二\n\n"
        "1. あ\n2. い\n\n"
        "| 品 | 価 |\n|---|---|\n| 茶 | 100 |\n\n```\nx = 1\n```\n<script>alert(1)</script>\n"
    )
    document = read(source, "a.md")
    assert document.title == "規程集"
    assert blocks(document) == [
        ("heading", "第一章"),
        ("table", "title / タイトル: 規程集"),
        ("paragraph", "太字とリンク (https://x.example)とcode。"),
        ("list_item", "- 一"),
        ("list_item", "- 二"),
        ("list_item", "1. あ"),
        ("list_item", "2. い"),
        ("table", "品: 茶 | 価: 100"),
        ("code", "x = 1"),
    ]


def test_html_shows_what_a_reader_sees() -> None:
    source = (
        "<html><head><title>T &amp; U</title><style>p{}</style></head><body><h1>Prices</h1><script>var x=1</script>"
        "<p>Tea is <b>100</b>&nbsp;yen.<br>Taxed.</p><p style='display: none'>secret</p><div hidden>hidden</div>"
        "<ul><li>one<li>two</ul><table><tr><th>Item<th>Price<tr><td>Tea<td>100</table><pre>a\n  b</pre></body></html>"
    )
    document = read(source, "a.html")
    assert document.title == "T & U"
    assert blocks(document) == [
        ("heading", "Prices"),
        ("paragraph", "Tea is 100\u00a0yen.\nTaxed."),
        ("list_item", "- one"),
        ("list_item", "- two"),
        ("table", "Item: Tea | Price: 100"),
        ("code", "a\n  b"),
    ]


def test_html_charset_from_meta() -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS"><p>出張旅費の精算</p>'
    document = read(page.encode("cp932"), "a.html")
    assert (document.text, document.encoding) == ("出張旅費の精算", "cp932")


def test_docx_headings_lists_tables_and_tracked_changes() -> None:
    source = docx.Document()
    source.core_properties.title = "出張規程"
    source.add_heading("旅費", level=1)
    paragraph = source.add_paragraph("日当は")
    paragraph.add_run("三千円").bold = True
    source.add_paragraph("項目", style="List Bullet")
    table = source.add_table(rows=2, cols=2)
    for row, values in zip(table.rows, (("区分", "金額"), ("国内", "3,000")), strict=True):
        for cell, value in zip(row.cells, values, strict=True):
            cell.text = value
    deleted = paragraph._p.makeelement(f"{{{paragraph._p.nsmap['w']}}}del", {})
    deleted.append(paragraph.add_run("（旧）")._r)
    paragraph._p.append(deleted)
    target = io.BytesIO()
    source.save(target)
    document = read(target.getvalue(), "a.docx")
    assert document.title == "出張規程"
    assert blocks(document) == [
        ("heading", "旅費"),
        ("paragraph", "日当は三千円"),
        ("list_item", "- 項目"),
        ("table", "区分: 国内 | 金額: 3,000"),
    ]
    assert read(target.getvalue(), "renamed.pdf").text == document.text  # content decides, not the name


def test_text_paragraphs_and_marked_headings() -> None:
    source = "施設案内\n\n■ 料金\n月額は五百円。\n\nTerms\n=====\nPaid monthly,\nin advance.\n"
    document = read(source, "a.txt")
    assert document.title == "施設案内"
    assert [block.level for block in document.blocks] == [1, 2, None, 1, None]
    assert blocks(document) == [
        ("heading", "施設案内"),
        ("heading", "■ 料金"),
        ("paragraph", "月額は五百円。"),
        ("heading", "Terms"),
        ("paragraph", "Paid monthly,\nin advance."),
    ]


def test_text_headings_of_rules_and_guides() -> None:
    source = (
        "保証規定\n\n第1条（期間）\n三年間。\n\n第2条 落下は対象外とする。\n\n"
        "PARKING\n\nStaff park on level B2.\n\nTHE END"
    )
    assert [block for block in blocks(read(source, "a.txt")) if block[0] == "heading"] == [
        ("heading", "保証規定"),
        ("heading", "第1条（期間）"),
        ("heading", "第2条"),
        ("heading", "PARKING"),
    ]


def test_pdf_lines_become_paragraphs_and_large_ones_headings() -> None:
    lines = [
        (72.0, 780.0, 20.0, "Travel policy"),
        (72.0, 740.0, 11.0, "Employees who travel on business receive a daily allow-"),
        (72.0, 726.0, 11.0, "ance and the cost of the journey. Receipts must be sent"),
        (72.0, 712.0, 11.0, "within a month."),
        (72.0, 680.0, 11.0, "Private use of a company car is not covered by this."),
    ]
    document = read(pdf([lines]), "a.pdf")
    assert document.page_count == 1 and document.title == "Travel policy"
    assert blocks(document) == [
        ("heading", "Travel policy"),
        (
            "paragraph",
            "Employees who travel on business receive a daily allowance and the cost of the journey. Receipts must be"
            " sent within a month.",
        ),
        ("paragraph", "Private use of a company car is not covered by this."),
    ]


def test_japanese_pdf_lines_are_joined_without_a_space() -> None:
    lines = [
        (72.0, 700.0, 12.0, "経費の精算は、支出した日から三十日以内に、領収書を添"),
        (72.0, 684.0, 12.0, "えて経理部へ申請しなければならない。申請の締切は毎月"),
        (72.0, 668.0, 12.0, "20日とする。"),
    ]
    document = read(pdf([lines], font="HeiseiMin-W3"), "a.pdf")
    assert document.text == (
        "経費の精算は、支出した日から三十日以内に、領収書を添えて経理部へ申請しなければならない。"
        "申請の締切は毎月20日とする。"
    )


def test_pdf_pages_without_text_are_named_and_a_pdf_of_empty_pages_fails_for_good() -> None:
    document = read(pdf([[(72, 700, 12, "Only the first page has text.")], [], []]), "a.pdf")
    assert document.quality["pages_without_text"] == [2, 3] and document.page_count == 3
    with pytest.raises(ExtractionFailed, match="empty") as caught:
        read(pdf([[], []]), "scan.pdf")
    assert (caught.value.code, caught.value.retryable) == ("no_text_layer", False)


def test_scanned_pages_without_an_ocr_engine_are_reported_and_can_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest.extract.ocr._settings, "engine", "off")
    scan = scanned_pdf([picture(("Scanned",)), picture(("Scanned",))])
    with pytest.raises(ExtractionFailed, match="OCR") as caught:
        read(scan, "scan.pdf")
    assert (caught.value.code, caught.value.retryable) == ("no_text_layer", True)
    document = read(joined_pdf([pdf([[(72, 700, 12, "Only the first page has text.")], []]), scan]), "mixed.pdf")
    assert document.quality["pages_not_read"] == [3, 4], "apart from the empty page"
    assert document.quality["pages_without_text"] == [2, 3, 4]
    assert document.quality["score"] < 0.5


def test_offsets_point_into_the_text() -> None:
    document = read("# A\n\nb\n\n- c\n- d\n", "a.md")
    assert [b.kind for b in document.blocks] == [
        BlockKind.HEADING, BlockKind.PARAGRAPH, BlockKind.LIST_ITEM, BlockKind.LIST_ITEM
    ]  # fmt: skip
    assert document.text == "A\n\nb\n\n- c\n- d"


def test_glyph_repairs_touch_only_what_no_writer_typed() -> None:
    assert repair_text("⼀般に⻑い、㈱①ＡＢＣ") == ("一般に長い、㈱①ＡＢＣ", {"radicals": 2})
    shifted = "".join(chr(ord(c) + 0x1690) if "ぁ" <= c <= "ゖ" else c for c in "日本語のひらがながずれている文")
    assert repair_text(shifted) == ("日本語のひらがながずれている文", {"shifted_kana": 11})
    assert repair_text("普通の文 䛾") == ("普通の文 䛾", {})


@pytest.mark.parametrize(
    ("data", "filename", "code"),
    [
        (b"PK\x03\x04" + b"\x00" * 40, "a.pdf", "not_a_pdf"),
        (b"just text", "a.pdf", "not_a_pdf"),
        (b"just text", "a.docx", "not_a_docx"),
        (b"%PDF-1.7\n%%EOF", "a.pdf", "broken_pdf"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 64, "a.txt", "broken_document"),
        (b"\x00\x01\x02\x03\x04\x05\x06\x07" * 40, "a.txt", "unsupported_format"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\x00" * 64, "a.doc", "unsupported_format"),
        (b" \n\n\t ", "a.txt", "no_text"),
    ],
)
def test_what_cannot_be_read_says_why(data: bytes, filename: str, code: str) -> None:
    assert code_of(data, filename) == code


def test_wiki_headings_open_sections_and_long_lines_are_paragraphs() -> None:
    paragraph = "This line was never broken to fit a page, as wikis and editors write them. " * 4
    text = f"= Title =\n{paragraph}\n{paragraph}\n== Legacy ==\nshort\nlines\n= = = Music = = =\nx = 1 = y\n"
    found = extract_document(text.encode(), "a.txt", max_chars=10_000)
    kinds = [(block.kind.value, block.level, found.text[block.start : block.end][:14]) for block in found.blocks]
    assert kinds == [
        ("heading", 1, "= Title ="), ("paragraph", None, paragraph[:14]), ("paragraph", None, paragraph[:14]),
        ("heading", 2, "== Legacy =="), ("paragraph", None, "short"), ("paragraph", None, "lines"),
        ("heading", 3, "= = = Music = "), ("paragraph", None, "x = 1 = y"),
    ]  # fmt: skip
