"""Sheets of workbooks and CSV files to text: regions, forms, values as shown, what is hidden."""

from __future__ import annotations

import datetime as dt
import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import xlsxwriter
import xlwt
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ExtractionFailed
from core.types import ExtractedDocument
from ingest.extract import extract_document
from ingest.extract.number_format import format_number, format_text

_ODS = "application/vnd.oasis.opendocument.spreadsheet"


def read(data: bytes, name: str = "a.xlsx", max_chars: int = 1_000_000) -> ExtractedDocument:
    return extract_document(data, name, max_chars=max_chars)


def blocks(document: ExtractedDocument) -> list[tuple[str, str]]:
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def lines(document: ExtractedDocument) -> list[str]:
    return [line for kind, text in blocks(document) if kind == "table" for line in text.split("\n")]


def book(fill: Callable[[Any, Any], None], sheet: str = "表") -> bytes:
    """A workbook of one sheet that `fill(workbook, sheet)` writes."""
    target = io.BytesIO()
    with xlsxwriter.Workbook(target, {"in_memory": True}) as made:
        fill(made, made.add_worksheet(sheet))
    return target.getvalue()


def of_rows(rows: list[list[Any]], merges: tuple[str, ...] = ()) -> bytes:
    def fill(made: Any, sheet: Any) -> None:
        for area in merges:  # writes blanks over the area; its first cell is written below
            sheet.merge_range(area, "")
        for at, row in enumerate(rows):
            for column, value in enumerate(row):
                if value not in {"", None}:
                    sheet.write(at, column, value)

    return book(fill)


def changed(data: bytes, part: str, change: Callable[[str], str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as made:
        for name in source.namelist():
            content = source.read(name)
            made.writestr(name, change(content.decode()).encode() if name == part else content)
    return target.getvalue()


def ods(table: str, styles: str = "") -> bytes:
    content = (
        '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"'
        ' xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:style="urn:oasis:names:tc:opendocument:xmlns:style:1.0"'
        ' xmlns:fo="urn:oasis:names:tc:opendocument:xmlns:xsl-fo-compatible:1.0"'
        ' xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0">'
        f"<office:automatic-styles>{styles}</office:automatic-styles>"
        f"<office:body><office:spreadsheet>{table}</office:spreadsheet></office:body></office:document-content>"
    )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        made.writestr("mimetype", _ODS)
        made.writestr("content.xml", content)
    return target.getvalue()


def ods_cell(text: str, **more: int) -> str:
    attributes = " ".join(f'table:{name.replace("_", "-")}="{value}"' for name, value in more.items())
    return f"<table:table-cell {attributes}><text:p>{text}</text:p></table:table-cell>"


SHOWN = [
    (456, "00000000", "00000456"),
    (0.075, "0.0%", "7.5%"),
    (1000004, "000-0000", "100-0004"),
    (2345600, '"¥"#,##0', "¥2,345,600"),
    (2345600, "[$¥-411]#,##0;[Red]-[$¥-411]#,##0", "¥2,345,600"),
    (-2345.5, '#,##0.0;"▲"#,##0.0', "▲2,345.5"),
    (46143, '[$-411]ggge"年"m"月"d"日"', "令和8年5月1日"),
    (46143, "[$-411]ge.mm.dd", "R8.05.01"),
    (46143, "yyyy/m/d(aaa)", "2026/5/1(金)"),
    (46143.5625, "yyyy/mm/dd hh:mm", "2026/05/01 13:30"),
    (0.5625, "h:mm AM/PM", "1:30 PM"),
    (1.5625, "[h]:mm", "37:30"),
    (95.5 / 86400, "mm:ss.0", "01:35.5"),
    (8, '"No."000', "No.008"),
    (2.75, "# ?/?", "2 3/4"),
    (0.5, "# ?/8", "4/8"),
    (1234567, "#,##0,", "1,235"),
    (0, "#,##0;-#,##0;", ""),
    (0, '_ * #,##0_ ;_ * -#,##0_ ;_ * "-"_ ;_ @_ ', "-"),
    (1500, '[>=1000]0.0,"千円";0"円"', "1.5千円"),
    (123456, "0.00E+00", "1.23E+05"),
    (312345678, "00-0000-0000", "03-1234-5678"),
    (4901234567894, "General", "4901234567894"),
    (0.1 + 0.2, "General", "0.3"),
    (1, '"済";"×";"未"', "済"),
    (60, "[$-411]dddd", "水曜日"),
    (1e12, "yyyy/m/d", "1000000000000"),
]


@pytest.mark.parametrize(("value", "code", "shown"), SHOWN)
def test_numbers_are_shown_by_their_format(value: float, code: str, shown: str) -> None:
    assert format_number(value, code) == shown


def test_texts_are_shown_by_their_format() -> None:
    assert format_text("青葉商会", '@"様"') == "青葉商会様"
    assert format_text("青葉商会", "0;-0;0") == "青葉商会"


@given(st.floats(allow_nan=False), st.text('0#?.,%/E+-;[]"\\_*@ygmdhsea$41>=<hH年 ', max_size=24))
@settings(max_examples=500)
def test_no_format_breaks_the_reader(value: float, code: str) -> None:
    assert isinstance(format_number(value, code), str)


def test_cells_are_shown_as_the_sheet_shows_them() -> None:
    def fill(made: Any, sheet: Any) -> None:
        sheet.write_row(0, 0, ["コード", "率", "日", "経過", "可否", "誤り", "日付"])
        for column, (value, code) in enumerate([(77, "000000"), (0.085, "0.0%"), (46143, '[$-411]ggge"年"m"月"d"日"')]):
            sheet.write(1, column, value, made.add_format({"num_format": code}))
        sheet.write(1, 3, dt.timedelta(hours=30), made.add_format({"num_format": "[h]:mm"}))
        sheet.write(1, 4, True)
        sheet.write_formula(1, 5, "=1/0", None, "#DIV/0!")
        sheet.write_datetime(1, 6, dt.datetime(2026, 5, 1), made.add_format({"num_format": 14}))  # noqa: DTZ001

    assert lines(read(book(fill))) == [
        "コード: 000077 | 率: 8.5% | 日: 令和8年5月1日 | 経過: 30:00 | 可否: TRUE | 誤り: #DIV/0! | 日付: 2026/5/1"
    ]


def test_merged_labels_and_headers_of_a_sheet() -> None:
    rows = [
        ["区分", "役職", "上限（円）", ""],
        ["", "", "平日", "休日"],
        ["甲", "部長", 900, 950],
        ["", "課長", 800, 850],
    ]
    document = read(of_rows(rows, ("A1:A2", "B1:B2", "C1:D1", "A3:A4")))
    assert lines(document)[1] == "区分: 甲 | 役職: 課長 | 上限（円） / 平日: 800 | 上限（円） / 休日: 850"


@pytest.mark.parametrize("above", [["設備台帳", "", "", "", ""], ["設備台帳", "", "", "", "（税抜・円）"]])
@pytest.mark.parametrize("blank", [0, 1])
def test_the_header_below_title_and_dates_is_found(above: list[str], blank: int) -> None:
    rows: list[list[Any]] = [above, ["作成日", "2031/4/1"], *[[]] * blank, ["番号", "名称", "場所", "台数", "単価"]]
    rows += [[f"K-{n}", f"設備{n}", "北棟", n, n * 1000] for n in range(1, 30)]
    document = read(of_rows(rows))
    assert lines(document)[-29:][6] == "番号: K-7 | 名称: 設備7 | 場所: 北棟 | 台数: 7 | 単価: 7000"
    assert ("heading", "設備台帳") in blocks(document) and "2031/4/1" in document.text and above[-1] in document.text


def test_forms_on_grid_paper() -> None:
    def fill(made: Any, sheet: Any) -> None:
        sheet.set_column(0, 43, 2)
        sheet.merge_range("K1:AF2", "備　品　購　入　願")
        sheet.merge_range("A4:F4", "部　署")
        sheet.merge_range("G4:T4", "総務部")
        sheet.merge_range("U4:Z4", "氏　名")
        sheet.merge_range("AA4:AP4", "谷川　実")
        sheet.merge_range("A6:F7", "理　由")
        sheet.merge_range("G6:AP7", "椅子の破損のため")
        sheet.write("A9", "（注）見積書を添えること。")

    assert blocks(read(book(fill)))[1:] == [
        ("heading", "備品購入願"),
        ("table", "部署: 総務部\n氏名: 谷川 実\n理由: 椅子の破損のため"),
        ("paragraph", "（注）見積書を添えること。"),
    ]


def test_a_table_on_grid_paper() -> None:
    def fill(made: Any, sheet: Any) -> None:
        for row, values in enumerate([("No.", "設備", "測定値"), ("①", "送風機", "0.4MPa"), ("②", "炉", "±3℃")]):
            for left, value in zip((0, 4, 16), values, strict=True):
                sheet.merge_range(row, left, row, left + 3, value)

    assert lines(read(book(fill))) == ["No.: ① | 設備: 送風機 | 測定値: 0.4MPa", "No.: ② | 設備: 炉 | 測定値: ±3℃"]


def test_tables_side_by_side_and_below() -> None:
    rows: list[list[Any]] = [
        ["商品", "価格", "", "担当", "内線"],
        ["筆", 100, "", "森", 2101],
        ["墨", 200, "", "林", 2102],
        [],
        ["在庫", "数"],
        ["筆", 5],
    ]
    assert lines(read(of_rows(rows))) == [
        *("商品: 筆 | 価格: 100", "商品: 墨 | 価格: 200"),
        *("担当: 森 | 内線: 2101", "担当: 林 | 内線: 2102"),
        "在庫: 筆 | 数: 5",
    ]


def test_a_spacer_column_does_not_part_a_table() -> None:
    rows: list[list[Any]] = [["商品", "産地", "", "価格", "数"], ["筆", "奈良", "", 100, 3], ["墨", "鈴鹿", "", 200, 4]]
    assert lines(read(of_rows(rows)))[1] == "商品: 墨 | 産地: 鈴鹿 | 価格: 200 | 数: 4"


def test_a_table_goes_on_after_a_blank_row() -> None:
    rows: list[list[Any]] = [
        ["番号", "品名", "数量"],
        [1, "筆", 30],
        [2, "墨", 40],
        [],
        [3, "硯", 50],
        ["", "合計", 120],
    ]
    assert lines(read(of_rows(rows)))[2:] == ["番号: 3 | 品名: 硯 | 数量: 50", "品名: 合計 | 数量: 120"]


def test_formulas_without_a_value_are_counted_and_shown_as_formulas() -> None:
    data = of_rows([["品名", "数"], ["筆", 3], ["墨", 4], ["計", "=SUM(B2:B3)"]])
    document = read(data)
    assert lines(document)[-1] == "品名: 計 | 数: =SUM(B2:B3)"
    assert document.quality["formula_without_value"] == 1
    empty = changed(data, "xl/worksheets/sheet1.xml", lambda xml: xml.replace("</f><v>0</v>", "</f><v></v>"))
    assert read(empty).quality["formula_without_value"] == 1
    told = changed(data, "xl/worksheets/sheet1.xml", lambda xml: xml.replace("</f><v>0</v>", "</f><v>7</v>"))
    assert lines(read(told))[-1] == "品名: 計 | 数: 7" and "formula_without_value" not in read(told).quality


@pytest.mark.parametrize(
    ("name", "sheet_mark", "mark"), [("原価", "（非表示）", "非表示"), ("Costs", " (hidden)", "hidden")]
)
def test_what_is_hidden_is_marked_and_counted(name: str, sheet_mark: str, mark: str) -> None:
    def fill(made: Any, sheet: Any) -> None:
        sheet.write_row(0, 0, ["Name", "Cost", "Price"])
        sheet.write_row(1, 0, ["a", 1, 2])
        sheet.write_row(2, 0, ["b", 3, 4])
        sheet.set_row(2, None, None, {"hidden": True})
        sheet.set_column(1, 1, None, None, {"hidden": True})
        made.add_worksheet("x").activate()
        sheet.hide()

    document = read(book(fill, name))
    assert blocks(document)[0] == ("heading", name + sheet_mark)
    assert lines(document) == [
        f"Name: a | Cost（{mark}）: 1 | Price: 2",
        f"Name: b | Cost（{mark}）: 3 | Price: 4 | （{mark}）",
    ]
    counted = {key: document.quality[key] for key in ("hidden_sheets", "hidden_rows", "hidden_columns")}
    assert counted == {"hidden_sheets": 1, "hidden_rows": 1, "hidden_columns": 1}


def test_comments_links_and_texts_of_shapes_are_kept_and_struck_text_left_out() -> None:
    def fill(made: Any, sheet: Any) -> None:
        sheet.write_row(0, 0, ["品名", "価格", "説明"])
        sheet.write_row(1, 0, ["筆", 120])
        sheet.write_comment(1, 1, "税込み")
        sheet.write_url(1, 2, "https://shop.example/fude", string="詳細")
        struck = made.add_format({"font_strikeout": True})
        sheet.write(2, 0, "墨")
        sheet.write(2, 1, 98, struck)
        sheet.write_rich_string(2, 2, struck, "旧型", made.add_format({"bold": True}), "新型")
        sheet.insert_textbox(6, 1, "送料は別に申し受けます")

    document = read(book(fill))
    assert lines(document) == [
        "品名: 筆 | 価格: 120（コメント: 税込み） | 説明: 詳細 (https://shop.example/fude)",
        "品名: 墨 | 説明: 新型",
    ]
    assert blocks(document)[-1] == ("paragraph", "送料は別に申し受けます")
    assert (document.quality["struck_left_out"], document.quality["comments"]) == (len("98旧型"), 1)


def test_readings_of_names_are_not_mixed_into_them() -> None:
    data = changed(
        of_rows([["氏名", "内線"], ["山本", 1], ["川口", 2]]),
        "xl/sharedStrings.xml",
        lambda xml: xml.replace("<t>山本</t>", '<t>山本</t><rPh sb="0" eb="2"><t>ヤマモト</t></rPh>'),
    )
    assert lines(read(data))[0] == "氏名: 山本 | 内線: 1"


def test_xls_has_formats_merges_notes_and_what_is_hidden() -> None:
    made = xlwt.Workbook(encoding="utf-8")
    sheet = made.add_sheet("料金")
    sheet.write_merge(0, 0, 0, 2, "会場料金表")
    for column, head in enumerate(["区分", "時間", "料金"]):
        sheet.write(1, column, head)
    sheet.write_merge(2, 3, 0, 0, "平日")
    yen = xlwt.easyxf(num_format_str='"¥"#,##0')
    for row, (time, fee) in enumerate([("午前", 1200), ("午後", 1500)], start=2):
        sheet.write(row, 1, time)
        sheet.write(row, 2, fee, yen)
    sheet.write(4, 0, "祝日")
    sheet.write(4, 2, 46143, xlwt.easyxf(num_format_str='[$-411]ggge"年"m"月"d"日"'))
    sheet.row(4).hidden = True
    other = made.add_sheet("控え")
    other.write(0, 0, "旧料金")
    other.visibility = 1
    target = io.BytesIO()
    made.save(target)
    document = read(target.getvalue(), "a.xls")
    assert document.quality["engine"] == "xlrd"
    assert blocks(document)[1:] == [
        ("heading", "会場料金表"),
        (
            "table",
            "区分: 平日 | 時間: 午前 | 料金: ¥1,200\n区分: 平日 | 時間: 午後 | 料金: ¥1,500\n"
            "区分: 祝日 | 料金: 令和8年5月1日 | （非表示）",
        ),
        ("heading", "控え（非表示）"),
        ("paragraph", "旧料金"),
    ]


def test_ods_has_spans_repeats_notes_and_what_is_hidden() -> None:
    table = (
        '<table:table table:name="予約" table:style-name="off">'
        f"<table:table-row>{ods_cell('室')}{ods_cell('午前')}{ods_cell('午後')}</table:table-row>"
        f"<table:table-row>{ods_cell('楓', number_rows_spanned=2)}"
        f"{ods_cell('会議', number_columns_repeated=2)}</table:table-row>"
        "<table:table-row><table:covered-table-cell/>"
        "<table:table-cell><office:annotation><dc:date>x</dc:date><text:p>要確認</text:p></office:annotation>"
        "<text:p>面接</text:p></table:table-cell></table:table-row>"
        '<table:table-row table:number-rows-repeated="1048000"><table:table-cell'
        ' table:number-columns-repeated="16000"/></table:table-row>'
        f'<table:table-row table:visibility="collapse">{ods_cell("桜")}'
        '<table:table-cell table:formula="of:=[.B2]"/></table:table-row></table:table>'
    )
    styles = '<style:style style:name="off"><style:table-properties table:display="false"/></style:style>'
    document = read(ods(table, styles), "a.ods")
    assert blocks(document)[0] == ("heading", "予約（非表示）")
    assert lines(document)[:2] == ["室: 楓 | 午前: 会議 | 午後: 会議", "室: 楓 | 午前: 面接（コメント: 要確認）"]
    assert "=[.B2]" in document.text and document.quality["formula_without_value"] == 1
    assert (document.quality["hidden_sheets"], document.quality["hidden_rows"]) == (1, 1)


def test_csv_title_units_ragged_rows_and_cells_of_several_lines() -> None:
    text = '倉庫台帳,,,\n作成者：森,,,2031/4/1\n品番,品名,重さ,単価\n,,(kg),(円)\nA-1,"筆\n（大）",0.2,120\nA-2,墨\n'
    document = read(text.encode(), "a.csv")
    assert ("heading", "倉庫台帳") in blocks(document)
    assert lines(document) == [
        "品番: A-1 | 品名: 筆 （大） | 重さ / (kg): 0.2 | 単価 / (円): 120",
        "品番: A-2 | 品名: 墨",
    ]


def test_a_csv_of_two_columns_of_words_has_a_header() -> None:
    for name, first, second in (("お名前", "コメント", "助かりました"), ("担当者", "役割", "書記")):
        document = read(f"{name},{first}\n林,{second}\n南,なし\n".encode("cp932"), "a.csv")
        assert lines(document) == [f"{name}: 林 | {first}: {second}", f"{name}: 南 | {first}: なし"]


def test_a_csv_that_names_its_delimiter() -> None:
    document = read(b"sep=;\nitem;price\ntea, green, hot;3\n", "a.csv")
    assert blocks(document) == [("table", "item: tea, green, hot | price: 3")]


def test_the_row_under_a_filter_is_the_header() -> None:
    def fill(made: Any, sheet: Any) -> None:
        for at, row in enumerate([["森", "林", "谷"], ["丘", "原", "沢"], ["峰", "滝", "浜"]]):
            sheet.write_row(at + 2, 1, row)
        sheet.autofilter("B3:D5")

    assert lines(read(book(fill))) == ["森: 丘 | 林: 原 | 谷: 沢", "森: 峰 | 林: 滝 | 谷: 浜"]


def test_notes_beside_a_table_are_not_in_it() -> None:
    rows: list[list[Any]] = [
        ["商品", "価格", "", "※ 税抜です"],
        ["筆", 100, "", ""],
        ["墨", 200, "", "配送は別に承ります"],
    ]
    document = read(of_rows(rows))
    assert lines(document) == ["商品: 筆 | 価格: 100", "商品: 墨 | 価格: 200"]
    assert blocks(document)[-2:] == [("paragraph", "※ 税抜です"), ("paragraph", "配送は別に承ります")]


def test_a_damaged_sheet_is_named_and_the_others_are_read() -> None:
    def fill(made: Any, sheet: Any) -> None:
        sheet.write_row(0, 0, ["品名", "数"])
        made.add_worksheet("良").write_row(0, 0, ["品名", "数", "棚"])

    data = changed(book(fill), "xl/worksheets/sheet1.xml", lambda xml: xml[: len(xml) // 2])
    document = read(data)
    assert document.quality["sheets_failed"] == ["表"] and "棚" in document.text


@pytest.mark.parametrize("kind", ["diagonal", "merges"])
def test_a_sheet_that_spans_everything_ends_with_a_code(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.extract.sheet.MAX_PLACES", 30_000)

    def fill(made: Any, sheet: Any) -> None:
        for at in range(300):
            sheet.write(at, at, "x") if kind == "diagonal" else sheet.write(0, at, "x")

    data = book(fill)
    if kind == "merges":
        areas = "".join(f'<mergeCell ref="{_letters(at)}1:XFD1"/>' for at in range(300))
        merges = f'</sheetData><mergeCells count="1">{areas}</mergeCells>'
        data = changed(data, "xl/worksheets/sheet1.xml", lambda xml: xml.replace("</sheetData>", merges))
        data = changed(data, "xl/worksheets/sheet1.xml", lambda xml: xml.replace("</row>", '<c r="A2"/></row>', 1))
    with pytest.raises(ExtractionFailed) as caught:
        read(data, max_chars=20_000_000)
    assert caught.value.code == "text_too_long"


def _letters(column: int) -> str:
    text = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        text = chr(65 + rest) + text
    return text


values = st.one_of(
    st.text(
        st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="|:：=@"), min_size=1, max_size=8
    ),
    st.integers(0, 10**6),
)


@given(st.lists(st.lists(st.none() | values, min_size=6, max_size=6).filter(any), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_every_value_of_a_sheet_is_in_the_text(rows: list[list[Any]]) -> None:
    def fill(made: Any, sheet: Any) -> None:
        for at, row in enumerate([*rows, [f"末{column}" for column in range(6)]]):  # each header has a value
            for column, value in enumerate(row):
                if value is not None:
                    sheet.write_string(at, column, value) if isinstance(value, str) else sheet.write(at, column, value)

    text = read(book(fill)).text
    for value in (value for row in rows for value in row if value is not None):
        assert str(value) in text
