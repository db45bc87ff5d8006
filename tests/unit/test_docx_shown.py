"""What Word shows of a DOCX is in its text, and what it does not show is not. Files are written here, part by part."""

from __future__ import annotations

import io
import zipfile

import docx
import pytest
from docx.oxml.ns import qn

from core.types import ExtractedDocument
from ingest.extract import extract_document
from ingest.extract.numerals import number_text

NAMES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
    ' xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
    ' xmlns:w14="http://schemas.microsoft.com/office/word/2010/wordml"'
)
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"


def made(body: str, *, rels: str = "", **parts: str) -> ExtractedDocument:
    """A document of this body; parts by name, `numbering` for `word/numbering.xml`."""
    roots = {"header1": "hdr", "footer1": "ftr", "footnotes": "footnotes"}
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("word/document.xml", f"<w:document {NAMES}><w:body>{body}</w:body></w:document>")
        for name, content in parts.items():
            root = roots.get(name, name)
            archive.writestr(f"word/{name}.xml", f"<w:{root} {NAMES}>{content}</w:{root}>")
        archive.writestr(
            "word/_rels/document.xml.rels",
            f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{rels}</Relationships>',
        )
    return extract_document(target.getvalue(), "a.docx", max_chars=100_000)


def blocks(document: ExtractedDocument) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def lines(document: ExtractedDocument) -> list[str]:
    return [text for _, text in blocks(document)]


def p(text: str, *, number: tuple[int, int] | None = None, style: str = "", run: str = "") -> str:
    """A paragraph; number: list and level; run: properties of its run."""
    properties = f'<w:pStyle w:val="{style}"/>' if style else ""
    if number is not None:
        properties += f'<w:numPr><w:ilvl w:val="{number[1]}"/><w:numId w:val="{number[0]}"/></w:numPr>'
    return (
        f'<w:p><w:pPr>{properties}</w:pPr><w:r><w:rPr>{run}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r></w:p>'
    )


def level(at: int, number_format: str, text: str, inner: str = "", start: int = 1) -> str:
    return (
        f'<w:lvl w:ilvl="{at}"><w:start w:val="{start}"/><w:numFmt w:val="{number_format}"/>{inner}'
        f'<w:lvlText w:val="{text}"/></w:lvl>'
    )


def listed(*levels: str, overrides: str = "") -> str:
    """A numbering part: list 1 counts plainly, list 2 is the same list with overrides."""
    return (
        f'<w:abstractNum w:abstractNumId="7">{"".join(levels)}</w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num>'
        f'<w:num w:numId="2"><w:abstractNumId w:val="7"/>{overrides}</w:num>'
    )


def test_articles_are_numbered_as_word_shows_them_and_are_headings() -> None:
    numbering = listed(level(0, "decimalFullWidth", "第%1条"), level(1, "decimal", "%2"), level(2, "aiueo", "(%3)"))
    body = "".join(
        [
            p("秘密保持契約書", style="Title"),
            p("（定義）本契約で秘密情報とは図面をいう。", number=(1, 0)),
            p("（返還）乙は終了後七日以内に返す。", number=(1, 0)),
            p("写しも同じとする。", number=(1, 1)),
            p("電子データ", number=(1, 2)),
            p("紙の図面", number=(1, 2)),
            p("（期間）二年とする。", number=(1, 0)),
            p("延長できる。", number=(1, 1)),
        ]
    )
    styles = '<w:style w:type="paragraph" w:styleId="Title"><w:name w:val="Title"/></w:style>'
    assert blocks(made(body, numbering=numbering, styles=styles)) == [
        ("heading", "秘密保持契約書"),
        ("heading", "第１条　（定義）"),
        ("paragraph", "本契約で秘密情報とは図面をいう。"),
        ("heading", "第２条　（返還）"),
        ("paragraph", "乙は終了後七日以内に返す。"),
        ("list_item", "1 写しも同じとする。"),
        ("list_item", "(ア) 電子データ"),
        ("list_item", "(イ) 紙の図面"),
        ("heading", "第３条　（期間）"),
        ("paragraph", "二年とする。"),
        ("list_item", "1 延長できる。"),
    ]


def test_a_caption_above_an_article_belongs_to_its_heading() -> None:
    numbering = listed(level(0, "japaneseCounting", "第%1条"))
    body = p("（休日）") + p("日曜とする。", number=(1, 0)) + p("（定年）") + p("六十二歳とする。", number=(1, 0))
    document = made(body, numbering=numbering)
    assert [" ".join(text.split()) for kind, text in blocks(document) if kind == "heading"] == [
        "（休日） 第一条",
        "（定年） 第二条",
    ]


def test_headings_take_numbers_from_their_styles() -> None:
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="H{n}"><w:name w:val="heading {n}"/><w:pPr><w:numPr>'
        f'<w:numId w:val="1"/></w:numPr></w:pPr></w:style>'
        for n in (1, 2)
    )
    numbering = listed(
        level(0, "upperRoman", "%1.", '<w:pStyle w:val="H1"/>'),
        level(1, "decimal", "%1.%2", '<w:pStyle w:val="H2"/><w:isLgl/>'),
    )
    body = (
        p("総則", style="H1")
        + p("目的", style="H2")
        + p("範囲", style="H2")
        + p("運用", style="H1")
        + p("細則", style="H2")
    )
    assert lines(made(body, numbering=numbering, styles=styles)) == [
        "I. 総則",
        "1.1 目的",
        "1.2 範囲",
        "II. 運用",
        "2.1 細則",
    ]


def test_lists_start_where_they_say_and_go_on_where_they_do_not() -> None:
    start = '<w:lvlOverride w:ilvl="0"><w:startOverride w:val="5"/></w:lvlOverride>'
    items = [(1, 0), (1, 0), (2, 0), (2, 0), (1, 0)]
    body = "".join(p("x", number=item) for item in items)
    numbers = lines(made(body, numbering=listed(level(0, "decimal", "%1)"), overrides=start)))
    assert numbers == ["1) x", "2) x", "5) x", "6) x", "7) x"]
    again = lines(made(body, numbering=listed(level(0, "decimal", "%1)"))))
    assert again == ["1) x", "2) x", "3) x", "4) x", "5) x"], "two lists of one abstract list go on counting"
    other = f'<w:lvlOverride w:ilvl="0">{level(0, "upperLetter", "%1:", start=3)}</w:lvlOverride>'
    assert lines(made(p("x", number=(2, 0)), numbering=listed(level(0, "decimal", "%1)"), overrides=other))) == ["C: x"]


def test_a_level_that_never_restarts_counts_on() -> None:
    numbering = listed(level(0, "decimal", "%1章"), level(1, "decimal", "第%2項", '<w:lvlRestart w:val="0"/>'))
    body = "".join(p("x", number=(1, at)) for at in (0, 1, 1, 0, 1))
    assert lines(made(body, numbering=numbering)) == ["1章　x", "第1項　x", "第2項　x", "2章　x", "第3項　x"]


def test_a_list_may_stand_for_a_list_style() -> None:
    numbering = (
        f'<w:abstractNum w:abstractNumId="1">{level(0, "iroha", "%1．")}</w:abstractNum>'
        '<w:abstractNum w:abstractNumId="2"><w:numStyleLink w:val="Rules"/></w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="1"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="2"/></w:num>'
    )
    styles = (
        '<w:style w:type="numbering" w:styleId="Rules"><w:name w:val="Rules"/><w:pPr><w:numPr><w:numId w:val="1"/>'
        "</w:numPr></w:pPr></w:style>"
    )
    assert lines(made(p("甲", number=(2, 0)) + p("乙", number=(2, 0)), numbering=numbering, styles=styles)) == [
        "イ．　甲",
        "ロ．　乙",
    ]


@pytest.mark.parametrize(
    ("number_format", "number", "shown"),
    [
        ("decimalEnclosedCircle", 12, "⑫"),
        ("decimalEnclosedCircle", 21, "㉑"),
        ("decimalFullWidth", 10, "１０"),
        ("japaneseCounting", 21, "二十一"),
        ("japaneseCounting", 110, "百十"),
        ("japaneseLegal", 12, "壱拾弐"),
        ("ideographDigital", 20, "二〇"),
        ("aiueoFullWidth", 5, "オ"),
        ("iroha", 3, "ハ"),
        ("ideographTraditional", 2, "乙"),
        ("lowerRoman", 14, "xiv"),
        ("upperLetter", 28, "BB"),
        ("decimalZero", 7, "07"),
        ("decimalEnclosedCircle", 99, "99"),
        ("noSuchFormat", 3, "3"),
    ],
)
def test_numbers_in_each_format(number_format: str, number: int, shown: str) -> None:
    assert number_text(number, number_format) == shown


def test_struck_hidden_and_deleted_text_is_left_out_and_counted() -> None:
    styles = (
        '<w:style w:type="character" w:styleId="Old"><w:name w:val="Old"/><w:rPr><w:dstrike/></w:rPr></w:style>'
        '<w:style w:type="paragraph" w:styleId="Memo"><w:name w:val="Memo"/><w:rPr><w:vanish/></w:rPr></w:style>'
        '<w:style w:type="paragraph" w:basedOn="Memo" w:styleId="Memo2"><w:name w:val="Memo2"/>'
        '<w:basedOn w:val="Memo"/></w:style>'
    )
    body = (
        "<w:p><w:r><w:t>点検は</w:t></w:r><w:r><w:rPr><w:strike/></w:rPr><w:t>毎月</w:t></w:r>"
        '<w:r><w:rPr><w:rStyle w:val="Old"/></w:rPr><w:t>隔週</w:t></w:r>'
        '<w:r><w:rPr><w:strike w:val="0"/></w:rPr><w:t>毎週行う。</w:t></w:r>'
        "<w:del><w:r><w:delText>三回</w:delText></w:r></w:del></w:p>"
        + p("原価は八万円", style="Memo")
        + p("社外秘", style="Memo2")
        + p("見える", style="Memo", run='<w:vanish w:val="false"/>')
    )
    document = made(body, styles=styles)
    assert lines(document) == ["点検は毎週行う。", "見える"]
    quality = document.quality
    assert (quality["struck_left_out"], quality["hidden_left_out"], quality["deleted_left_out"]) == (4, 9, 2)


def test_headers_and_footers_come_once_without_page_numbers() -> None:
    field = (
        '<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText> PAGE </w:instrText></w:r>'
        '<w:r><w:fldChar w:fldCharType="separate"/></w:r><w:r><w:t>7</w:t></w:r>'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    )
    section = '<w:sectPr><w:headerReference r:id="h"/><w:footerReference r:id="f"/></w:sectPr>'
    rels = (
        f'<Relationship Id="h" Type="{OFFICE}/header" Target="header1.xml"/>'
        f'<Relationship Id="f" Type="{OFFICE}/footer" Target="footer1.xml"/>'
    )
    document = made(
        p("本文") + f"<w:p><w:pPr>{section}</w:pPr></w:p>" + section,
        rels=rels,
        header1=p("文書番号 KT-0931"),
        footer1=f"<w:p>{field}</w:p><w:p><w:r><w:t>所管 品質課 </w:t></w:r>{field}</w:p>",
    )
    assert lines(document) == ["文書番号 KT-0931", "所管 品質課", "本文"]


def test_links_say_where_they_lead_and_fields_show_their_result() -> None:
    rels = (
        f'<Relationship Id="a" Type="{OFFICE}/hyperlink" TargetMode="External" Target="https://forms.example/a?x=1"/>'
        f'<Relationship Id="b" Type="{OFFICE}/hyperlink" TargetMode="External" Target="mailto:desk@firm.example"/>'
        f'<Relationship Id="c" Type="{OFFICE}/hyperlink" TargetMode="External" Target="https://firm.example/"/>'
    )
    link = '<w:hyperlink r:id="{}"><w:r><w:t>{}</w:t></w:r></w:hyperlink>'
    field = (
        '<w:r><w:fldChar w:fldCharType="begin"/></w:r><w:r><w:instrText xml:space="preserve"> {} </w:instrText></w:r>'
        '<w:r><w:fldChar w:fldCharType="separate"/></w:r><w:r><w:t>{}</w:t></w:r>'
        '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
    )
    body = (
        f"<w:p>{link.format('a', '申請書')}{link.format('b', '窓口')}{link.format('c', 'firm.example')}</w:p>"
        f"<w:p>{field.format('HYPERLINK &quot;https://wiki.example/p&quot;', '手順')}"
        f"{field.format('REF _Ref1', '別表2')}"
        '<w:fldSimple w:instr=" NUMPAGES "><w:r><w:t>9</w:t></w:r></w:fldSimple></w:p>'
        '<w:p><w:hyperlink w:anchor="top"><w:r><w:t>先頭へ</w:t></w:r></w:hyperlink></w:p>'
    )
    assert lines(made(body, rels=rels)) == [
        "申請書 (https://forms.example/a?x=1)窓口 (desk@firm.example)firm.example",
        "手順 (https://wiki.example/p)別表2",
        "先頭へ",
    ]


def test_notes_boxes_symbols_and_readings() -> None:
    body = (
        '<w:p><w:r><w:t>日当は三千円</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r>'
        "<w:r><w:t>とする。</w:t></w:r></w:p>"
        '<w:p><w:sdt><w:sdtPr><w14:checkbox><w14:checked w14:val="1"/></w14:checkbox></w:sdtPr><w:sdtContent><w:r>'
        "<w:t>☒</w:t></w:r></w:sdtContent></w:sdt><w:r><w:t>同意</w:t></w:r>"
        '<w:r><w:sym w:font="Wingdings" w:char="F0A8"/></w:r><w:r><w:t>拒否</w:t></w:r></w:p>'
        "<w:p><w:r><w:ruby><w:rt><w:r><w:t>かく</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>格</w:t></w:r></w:rubyBase></w:ruby></w:r>"
        "<w:r><w:ruby><w:rt><w:r><w:t>のう</w:t></w:r></w:rt><w:rubyBase><w:r><w:t>納</w:t></w:r></w:rubyBase></w:ruby>"
        "<w:t>箱</w:t></w:r></w:p>"
    )
    notes = (
        '<w:footnote w:type="separator" w:id="0"><w:p/></w:footnote>'
        f'<w:footnote w:id="2">{p("海外は五千円。")}</w:footnote>'
    )
    assert lines(made(body, footnotes=notes)) == [
        "日当は三千円[1]とする。",
        "[1] 海外は五千円。",
        "☑同意☐拒否",
        "格納箱（ルビ: 格納=かくのう）",
    ]


def test_contents_are_left_out_and_captions_head_their_tables() -> None:
    styles = (
        '<w:style w:type="paragraph" w:styleId="T1"><w:name w:val="toc 1"/></w:style>'
        '<w:style w:type="paragraph" w:styleId="C"><w:name w:val="caption"/></w:style>'
    )
    table = (
        "<w:tbl><w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr><w:tr><w:tc>{}</w:tc><w:tc>{}</w:tc></w:tr></w:tbl>".format(
            *map(p, ("型番", "重さ", "K-7", "12 kg"))
        )
    )
    document = made(p("1 概要\t3", style="T1") + p("部品の重さ", style="C") + table, styles=styles)
    assert blocks(document) == [("heading", "部品の重さ"), ("table", "型番: K-7 | 重さ: 12 kg")]


def test_merged_cells_reach_where_they_reach_and_a_cell_of_paragraphs_is_one() -> None:
    source = docx.Document()
    table = source.add_table(rows=4, cols=3)
    texts = [("区分", "料金", ""), ("", "平日", "休日"), ("会議室", "800", "1,000"), ("", "夜間 900", "1,100")]
    for row, values in zip(table.rows, texts, strict=True):
        for cell, value in zip(row.cells, values, strict=True):
            cell.text = value
    table.cell(0, 0).merge(table.cell(1, 0))
    table.cell(0, 1).merge(table.cell(0, 2))
    table.cell(2, 0).merge(table.cell(3, 0))
    table.cell(2, 2).add_paragraph("（要予約）")
    for row in table.rows[:2]:
        mark = row._tr.get_or_add_trPr().makeelement(qn("w:tblHeader"), {})
        row._tr.get_or_add_trPr().append(mark)
    target = io.BytesIO()
    source.save(target)
    document = extract_document(target.getvalue(), "a.docx", max_chars=10_000)
    assert lines(document) == [
        "区分: 会議室 | 料金 / 平日: 800 | 料金 / 休日: 1,000 （要予約）\n"
        "区分: 会議室 | 料金 / 平日: 夜間 900 | 料金 / 休日: 1,100"
    ]


def test_a_table_that_only_frames_text_is_read_as_text() -> None:
    rows = [
        f"<w:tr><w:tc>{p(left)}</w:tc><w:tc>{p(right)}</w:tc></w:tr>" for left, right in (("品", "価"), ("茶", "90"))
    ]
    inner = f"<w:tbl>{''.join(rows)}</w:tbl>"
    frame = f"<w:tbl><w:tr><w:tc>{p('重要')}{p('本状は社内限りとする。')}{inner}{p('以上')}</w:tc></w:tr></w:tbl>"
    assert blocks(made(frame)) == [
        ("paragraph", "重要"),
        ("paragraph", "本状は社内限りとする。"),
        ("table", "品: 茶 | 価: 90"),
        ("paragraph", "以上"),
    ]
