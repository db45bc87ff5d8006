"""Office, mail, book and table formats, on small files made here."""

from __future__ import annotations

import io
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest
import xlsxwriter
from pptx import Presentation

import ingest.extract.ocr
from core.errors import ExtractionFailed
from core.types import ExtractedDocument
from ingest.batch import unpacked
from ingest.extract import extract_document
from ingest.extract.archive import unpack_wanted
from ingest.upload import Upload


def read(data: bytes, filename: str) -> ExtractedDocument:
    return extract_document(data, filename, max_chars=1_000_000)


def blocks(document: ExtractedDocument) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def code_of(data: bytes, filename: str) -> tuple[str, bool]:
    with pytest.raises(ExtractionFailed) as caught:
        read(data, filename)
    return caught.value.code, caught.value.retryable


def zipped(members: dict[str, bytes | str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return target.getvalue()


def workbook(rows: list[list[object]], sheet: str = "価格表") -> bytes:
    target = io.BytesIO()
    with xlsxwriter.Workbook(target, {"in_memory": True}) as book:
        page = book.add_worksheet(sheet)
        for number, row in enumerate(rows):
            page.write_row(number, 0, row)
        book.add_worksheet("空")
    return target.getvalue()


def mail(**attachments: bytes) -> bytes:
    message = EmailMessage()
    message["Subject"] = "出張の件"
    message["From"] = "佐藤 <sato@example.jp>"
    message["To"] = "tanaka@example.jp"
    message.set_content("日当は三千円です。", charset="iso-2022-jp")
    for name, data in attachments.items():
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name.replace("_", "."))
    return message.as_bytes()


def test_sheets_are_headings_and_rows_keep_their_header() -> None:
    rows: list[list[object]] = [["改定版"], ["品名", "単価"], *[[f"商品{n:03}", n * 10] for n in range(100)]]
    document = read(workbook(rows), "a.xlsx")
    found = blocks(document)
    assert found[:2] == [("heading", "価格表"), ("heading", "改定版")]
    (table,) = [text for kind, text in found if kind == "table"]
    assert table.split("\n") == [f"品名: 商品{n:03} | 単価: {n * 10}" for n in range(100)]
    assert found[-1] == ("heading", "空")
    assert [block.page for block in document.blocks][-1] == 2


@pytest.mark.parametrize("encoding", ["cp932", "euc_jp", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_in_any_encoding_and_delimiter(encoding: str, delimiter: str) -> None:
    source = '品名,単価\r\n"お茶,濃いめ",100\r\nコーヒー,250\r\n'.replace(",", delimiter).replace(
        f"お茶{delimiter}", "お茶、"
    )
    document = read(source.encode(encoding), "a.csv")
    assert blocks(document) == [("table", "品名: お茶、濃いめ | 単価: 100\n品名: コーヒー | 単価: 250")]


def test_slides_have_titles_tables_and_notes() -> None:
    deck = Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "売上報告"
    table = slide.shapes.add_table(2, 2, 0, 3_000_000, 3_000_000, 1_000_000).table
    for index, text in enumerate(("月", "売上", "四月", "120")):
        table.cell(index // 2, index % 2).text = text
    slide.notes_slide.notes_text_frame.text = "来月は発表者が替わる"
    deck.slides.add_slide(deck.slide_layouts[6])
    target = io.BytesIO()
    deck.save(target)
    document = read(target.getvalue(), "a.pptx")
    assert blocks(document) == [
        ("heading", "売上報告"),
        ("table", "月: 四月 | 売上: 120"),
        ("heading", "発表者ノート"),
        ("paragraph", "来月は発表者が替わる"),
        ("heading", "Slide 2"),
    ]
    assert (document.page_count, document.quality["pages_without_text"]) == (2, [2])
    assert document.quality["score"] == 0.75


def test_mail_has_headers_body_and_attachments_as_sections() -> None:
    document = read(
        mail(price_csv="しなもの,ねだん\nお茶,100\n".encode("cp932"), noise_bin=b"\x00\x01\x02\x07" * 99), "a.eml"
    )
    assert document.title == "出張の件"
    found = blocks(document)
    assert found[0] == ("heading", "出張の件")
    assert "From: 佐藤 <sato@example.jp>" in found[1][1]
    assert ("paragraph", "日当は三千円です。") in found
    assert found[-2:] == [("heading", "price.csv"), ("table", "しなもの: お茶 | ねだん: 100")]
    assert [item["error"] for item in document.quality["attachments"]] == [None, "unsupported_format"]
    assert document.quality["score"] < 1


def test_mails_in_mails_end_somewhere() -> None:
    inner = mail()
    for _ in range(8):
        inner = mail(forwarded_eml=inner)
    assert read(inner, "a.eml").text.count("日当は三千円です。") == 4


def test_opendocument_headings_lists_tables_and_spaces() -> None:
    content = (
        '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
        ' xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
        ' xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"><office:body><office:text>'
        '<text:h text:outline-level="2">第一章</text:h><text:p>あ<text:s text:c="2"/>い<text:line-break/>う</text:p>'
        "<text:list><text:list-item><text:p>項目</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>区分</text:p></table:table-cell>"
        "<table:table-cell><text:p>額</text:p></table:table-cell></table:table-row></table:table>"
        "</office:text></office:body></office:document-content>"
    )
    odt = zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content})
    assert blocks(read(odt, "a.odt")) == [
        ("heading", "第一章"),
        ("paragraph", "あ  い\nう"),
        ("list_item", "- 項目"),
        ("table", "区分: 額"),
    ]


ODF = (
    'xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
    ' xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"'
    ' xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"'
    ' xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0" xmlns:xlink="http://www.w3.org/1999/xlink"'
)


def odt(body: str, automatic: str = "", styles: str = "") -> ExtractedDocument:
    content = (
        f"<office:document-content {ODF}><office:automatic-styles>{automatic}</office:automatic-styles>"
        f"<office:body><office:text>{body}</office:text></office:body></office:document-content>"
    )
    parts = {
        "mimetype": "application/vnd.oasis.opendocument.text",
        "content.xml": content,
        "styles.xml": f"<office:document-styles {ODF}>{styles}</office:document-styles>",
    }
    return read(zipped(parts), "a.odt")


def test_opendocument_numbers_its_lists_and_leaves_out_what_is_struck_or_deleted() -> None:
    automatic = (
        '<style:style style:name="S"><style:text-properties style:text-line-through-style="solid"/></style:style>'
        '<style:style style:name="V"><style:text-properties text:display="none"/></style:style>'
        '<text:list-style style:name="L"><text:list-level-style-number text:level="1"'
        ' style:num-format="１, ２, ３, ..."'
        ' style:num-prefix="第" style:num-suffix="項"/><text:list-level-style-number text:level="2"'
        ' style:num-format="a" style:num-suffix=")" text:start-value="3"/></text:list-style>'
    )
    margin = "<text:p>文書 K-12</text:p><text:p><text:page-number>3</text:page-number></text:p>"
    styles = (
        '<text:outline-style><text:outline-level-style text:level="1" style:num-format="I" style:num-suffix="."/>'
        "</text:outline-style><style:master-page><style:header>" + margin + "</style:header></style:master-page>"
    )
    body = (
        "<text:tracked-changes><text:changed-region><text:deletion><text:p>消した文</text:p></text:deletion>"
        '</text:changed-region></text:tracked-changes><text:h text:outline-level="1">総則</text:h>'
        '<text:p>料金は<text:span text:style-name="S">九百円</text:span>八百円。'
        '<text:span text:style-name="V">原価</text:span>'
        '<text:a xlink:href="https://x.example/y">様式</text:a><text:note><text:note-citation>1</text:note-citation>'
        "<text:note-body><text:p>税込。</text:p></text:note-body></text:note></text:p>"
        '<text:list text:style-name="L"><text:list-item><text:p>甲</text:p>'
        "<text:list><text:list-item><text:p>子</text:p>"
        "</text:list-item></text:list></text:list-item><text:list-item><text:p>乙</text:p></text:list-item></text:list>"
        '<text:list text:style-name="L" text:continue-numbering="true"><text:list-item><text:p>丙</text:p>'
        "</text:list-item></text:list>"
    )
    document = odt(body, automatic, styles)
    assert blocks(document) == [
        ("paragraph", "文書 K-12"),
        ("heading", "I. 総則"),
        ("paragraph", "料金は八百円。様式 (https://x.example/y)[1]"),
        ("paragraph", "[1] 税込。"),
        ("list_item", "第１項　甲"),
        ("list_item", "c) 子"),
        ("list_item", "第２項　乙"),
        ("list_item", "第３項　丙"),
    ]
    assert [document.quality[f"{why}_left_out"] for why in ("struck", "hidden", "deleted")] == [3, 2, 4]


def test_opendocument_tables_reach_where_they_reach() -> None:
    def cell(text: str, spans: str = "") -> str:
        return f"<table:table-cell {spans}><text:p>{text}</text:p></table:table-cell>"

    covered = "<table:covered-table-cell/>"
    rows = [
        cell("区分", 'table:number-rows-spanned="2"') + cell("料金", 'table:number-columns-spanned="2"') + covered,
        covered + cell("平日") + cell("休日"),
        cell("小室") + cell("700", 'table:number-columns-repeated="2"'),
    ]
    header = "".join(f"<table:table-row>{row}</table:table-row>" for row in rows[:2])
    body = (
        f"<table:table><table:table-header-rows>{header}</table:table-header-rows>"
        f"<table:table-row>{rows[2]}</table:table-row></table:table>"
    )
    assert blocks(odt(body)) == [("table", "区分: 小室 | 料金 / 平日: 700 | 料金 / 休日: 700")]


def test_rtf_leaves_out_what_is_struck_or_hidden() -> None:
    source = (
        rb"{\rtf1\ansi{\fonttbl{\f0 Arial;}}\f0 Every {\strike six }three months.\par "
        rb"\v cost {\b 80}\v0  Paid \strike by cash\plain  by card.\par \\strike stays\par}"
    )
    document = read(source, "a.rtf")
    assert document.text == "Every three months.\n\nPaid  by card.\n\n\\strike stays"
    assert (document.quality["struck_left_out"], document.quality["hidden_left_out"]) == (10, 6)


def test_epub_in_the_order_of_its_spine() -> None:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        '<dc:title>手引き</dc:title></metadata><manifest><item id="b" href="two.xhtml"/><item id="a" href="one.xhtml"/>'
        '<item id="c" href="../../etc/passwd"/></manifest>'
        '<spine><itemref idref="a"/><itemref idref="b"/><itemref idref="c"/></spine></package>'
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/p.opf"/></rootfiles></container>'
    )
    book = zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OPS/p.opf": package,
            "OPS/one.xhtml": "<html><body><h1>一</h1><p>はじめ</p></body></html>",
            "OPS/two.xhtml": "<html><body><h1>二</h1><p>おわり</p></body></html>",
        }
    )
    document = read(book, "a.epub")
    assert (document.title, document.text) == ("手引き", "一\n\nはじめ\n\n二\n\nおわり")
    assert document.quality["chapters_missing"] == ["../etc/passwd"]


def test_rtf_in_cp932_and_unicode() -> None:
    source = (
        rb"{\rtf1\ansi\ansicpg932{\fonttbl{\f0\fcharset128 MS Mincho;}}\f0 "
        rb"\'8f\'6f\'92\'a3\'97\'b7\'94\'ef\par \u12354?\u12356? ok\par}"
    )
    assert read(source, "a.doc").text == "出張旅費\n\nあい ok"


def test_without_converter_or_ocr_the_error_says_so_and_can_be_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(ingest.extract.ocr._settings, "engine", "off")
    doc = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 512 + "WordDocument".encode("utf-16-le")
    assert code_of(doc, "a.doc") == ("converter_missing", True)
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (40, 20), "white").save(target, "PNG")
    assert code_of(target.getvalue(), "scan.png") == ("ocr_unavailable", True)


def test_an_archive_is_its_files_under_names_that_cannot_escape(tmp_path: Path) -> None:
    archive = zipped(
        {"../../etc/規程.txt": "一", "a/b.md": "# 二", "C:\\x\\c.txt": "三", "empty.txt": "", "__MACOSX/x": "y"}
    )
    parts = unpacked(Upload("束.zip", archive, groups=["hr"]), tmp_path, unpack_wanted, max_bytes=10**6)
    assert [(part.filename, part.external_id) for part in parts] == [
        ("規程.txt", "束.zip!/etc/規程.txt"),
        ("b.md", "束.zip!/a/b.md"),
        ("c.txt", "束.zip!/C:/x/c.txt"),
    ]
    assert all(part.groups == ("hr",) for part in parts)
    document = workbook([["a"]])
    assert unpacked(Upload("a.xlsx", document), tmp_path, unpack_wanted, max_bytes=10**6)[0].data == document


def test_archive_names_of_japanese_windows(tmp_path: Path) -> None:
    archive = zipped({"XXXXXXXX.txt": "中身"}).replace(b"XXXXXXXX", "見積書別".encode("cp932"))
    (part,) = unpacked(Upload("a.zip", archive), tmp_path, unpack_wanted, max_bytes=10**6)
    assert part.filename == "見積書別.txt"


@pytest.mark.parametrize(
    ("archive", "code"),
    [
        (zipped({"zeros.txt": b"\0" * 2**22}), "zip_bomb"),
        (zipped({f"{n}.txt": "x" for n in range(2001)}), "zip_bomb"),
        (zipped({"a.txt": "x"})[:-30], "broken_archive"),
        (zipped({"a.txt": ""}), "empty_archive"),
        (zipped({"a.txt": "x", "A.txt": "y"}), "nested_archive"),
    ],
)
def test_an_archive_that_is_not_taken_apart_fails_with_a_code(archive: bytes, code: str, tmp_path: Path) -> None:
    if code != "nested_archive":
        upload = Upload("a.zip", archive)
        assert unpacked(upload, tmp_path, unpack_wanted, max_bytes=10**6) == [
            upload
        ]  # it becomes one document, whose job says why
    assert code_of(archive, "a.zip") == (code, False)
