"""The table model: what is header, title, label, form or note, in cells as any format gives them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ExtractionFailed
from core.table_text import read_row, write_row
from ingest.extract.builder import TextBuilder
from ingest.extract.cells import fill_grid
from ingest.extract.grid import Cell, write_table

Content = str | Cell


def blocks(rows: list[list[Content]], title: str | None = None) -> list[tuple[str, str]]:
    builder = TextBuilder(max_chars=1_000_000)
    write_table(
        builder, [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows], title=title
    )
    document = builder.build("text/plain")
    return [(block.kind.value, document.text[block.start : block.end]) for block in document.blocks]


def lines(rows: list[list[Content]]) -> list[str]:
    return [line for kind, text in blocks(rows) if kind == "table" for line in text.split("\n")]


def test_a_row_becomes_a_line_with_its_headers() -> None:
    assert lines([["品名", "単価"], ["煎茶", "120"], ["番茶", ""]]) == ["品名: 煎茶 | 単価: 120", "品名: 番茶"]


def test_items_as_rows_and_models_as_columns() -> None:
    rows: list[list[Content]] = [["項目", "KT-1", "KT-2"], ["定格電圧", "100V", "200V"], ["防水等級", "IP54", "IP67"]]
    assert lines(rows)[0] == "項目: 定格電圧 | KT-1: 100V | KT-2: 200V"
    rows[0][0] = ""
    assert lines(rows)[1] == "防水等級 | KT-1: IP54 | KT-2: IP67"


def test_merged_headers_are_joined_and_merged_labels_filled_down() -> None:
    assert lines(
        [
            [Cell("地区", rows=2), Cell("等級", rows=2), Cell("日当（円）", columns=2)],
            ["平日", "休日"],
            [Cell("甲地", rows=2), "主任", "2,400", "2,900"],
            ["係員", "2,100", "2,500"],
            [Cell("計", columns=2), "4,500", "5,400"],
        ]
    ) == [
        "地区: 甲地 | 等級: 主任 | 日当（円） / 平日: 2,400 | 日当（円） / 休日: 2,900",
        "地区: 甲地 | 等級: 係員 | 日当（円） / 平日: 2,100 | 日当（円） / 休日: 2,500",
        "地区: 計 | 等級: 計 | 日当（円） / 平日: 4,500 | 日当（円） / 休日: 5,400",
    ]


def test_levels_without_merges_and_units_below_names() -> None:
    assert (
        lines(
            [
                ["店", "4月", "", "5月", ""],
                ["", "予算", "実績", "予算", "実績"],
                ["北店", "10", "11", "12", "13"],
                ["南店", "20", "21", "22", "23"],
            ]
        )[1]
        == "店: 南店 | 4月 / 予算: 20 | 4月 / 実績: 21 | 5月 / 予算: 22 | 5月 / 実績: 23"
    )
    assert lines([["品名", "重さ", "値段"], ["", "(kg)", "(円)"], ["米", "5", "2,480"]]) == [
        "品名: 米 | 重さ / (kg): 5 | 値段 / (円): 2,480"
    ]


def test_days_above_weekdays_are_a_header() -> None:
    rows: list[list[Content]] = [["氏名", "1", "2", "3"], ["曜日", "水", "木", "金"], ["森", "早", "遅", "休"]]
    assert lines([*rows, ["林", "休", "早", "遅"]])[0] == "氏名 / 曜日: 森 | 1 / 水: 早 | 2 / 木: 遅 | 3 / 金: 休"


def test_title_and_unit_lines_above_and_notes_below() -> None:
    assert blocks(
        [
            [Cell("清掃料金表", columns=3)],
            ["", "", "単位：円"],
            ["区画", "平日", "夜間"],
            ["A", "100", "150"],
            ["区画", "平日", "夜間"],
            ["B", "200", "250"],
            ["※ 祝日は夜間の料金", "", ""],
        ]
    ) == [
        ("heading", "清掃料金表"),
        ("paragraph", "単位：円"),
        ("table", "区画: A | 平日: 100 | 夜間: 150\n区画: B | 平日: 200 | 夜間: 250"),
        ("paragraph", "※ 祝日は夜間の料金"),
    ]


def test_a_title_given_and_found_is_written_once() -> None:
    rows: list[list[Content]] = [[Cell("定員", columns=2)], ["部屋", "人数"], ["楓", "8"]]
    assert [text for kind, text in blocks(rows, title="定員") if kind == "heading"] == ["定員"]


def test_a_section_row_goes_before_its_rows() -> None:
    rows: list[list[Content]] = [["店", "電話", "駅"], [Cell("■関東", columns=3)], ["柏", "04-0000", "柏"]]
    assert lines([*rows, [Cell("■関西", columns=3)], ["堺", "072-000", "堺東"]]) == [
        "■関東 | 店: 柏 | 電話: 04-0000 | 駅: 柏",
        "■関西 | 店: 堺 | 電話: 072-000 | 駅: 堺東",
    ]


def test_tables_one_under_another_have_each_its_header() -> None:
    rows: list[list[Content]] = [["型番", "価格", ""], ["K-1", "100", ""], ["付属品", "", ""], ["品番", "名称", "価格"]]
    rows += [["P-1", "台", "50"], ["P-2", "蓋", "70"]]
    assert blocks(rows) == [
        ("table", "型番: K-1 | 価格: 100"),
        ("heading", "付属品"),
        ("table", "品番: P-1 | 名称: 台 | 価格: 50\n品番: P-2 | 名称: 蓋 | 価格: 70"),
    ]


def test_words_of_a_header_that_its_width_parted_are_one() -> None:
    assert lines([["商品\n名称", "標準 価格"], ["筆", "100"]]) == ["商品名称: 筆 | 標準価格: 100"]


def test_forms_are_label_and_value() -> None:
    assert lines(
        [
            ["氏　名", "丘 みどり", "所属", "経理部"],
            ["期間", Cell("3月2日から3月4日まで", columns=3)],
            ["理由", Cell("転居のため", columns=3)],
        ]
    ) == ["氏名: 丘 みどり", "所属: 経理部", "期間: 3月2日から3月4日まで", "理由: 転居のため"]
    assert lines([[Cell("申請者", rows=2), "氏名", "丘"], ["所属", "経理部"]]) == [
        "申請者 / 氏名: 丘",
        "申請者 / 所属: 経理部",
    ]
    assert lines([["締切日", "2031-03-21"], ["想定為替", "151.5"]]) == ["締切日: 2031-03-21", "想定為替: 151.5"]


def test_header_cells_that_the_format_marks() -> None:
    assert lines([[Cell("No", header=True), Cell("何か", header=True)], ["1", "x"]]) == ["No: 1 | 何か: x"]
    side: list[list[Content]] = [[Cell("幅", header=True), "30"], [Cell("高さ", header=True), "40"]]
    assert lines(side) == ["幅: 30", "高さ: 40"]


def test_a_form_whose_labels_are_no_known_words() -> None:
    rows: list[list[Content]] = [["Badge", "CA-3", "Arrives", "2 May 2031"], ["Guests", "3", "Escort", "R. Vale"]]
    assert lines(rows) == ["Badge: CA-3", "Arrives: 2 May 2031", "Guests: 3", "Escort: R. Vale"]


def test_spans_of_time_above_a_row_are_its_header() -> None:
    rows: list[list[Content]] = [
        ["勤続年数", "６か月", "１年６か月", "２年６か月以上"],
        ["休暇日数", "10日", "11日", "12日"],
    ]
    assert lines(rows) == ["勤続年数: 休暇日数 | ６か月: 10日 | １年６か月: 11日 | ２年６か月以上: 12日"]


def test_amounts_of_another_unit_are_a_header() -> None:
    rows: list[list[Content]] = [
        ["重量", "60サイズ", "80サイズ"],
        ["〜2kg", "800円", "900円"],
        ["〜5kg", "1,000円", "1,100円"],
    ]
    assert lines(rows)[1] == "重量: 〜5kg | 60サイズ: 1,000円 | 80サイズ: 1,100円"


def test_a_first_row_of_pairs_heads_nothing() -> None:
    rows: list[list[Content]] = [["社名", "青葉商会", "設立", "1985年4月"], ["業種", "卸売", "社員", "120名"]]
    assert lines(rows) == ["社名: 青葉商会", "設立: 1985年4月", "業種: 卸売", "社員: 120名"]


def test_a_header_over_two_columns_may_have_no_second_level() -> None:
    assert lines(
        [
            [Cell("事由", columns=2), "日数"],
            ["結婚", "本人", "4日"],
            [Cell("転居", columns=2), "2日"],
        ]
    ) == ["事由: 結婚 | 事由: 本人 | 日数: 4日", "事由: 転居 | 日数: 2日"]


def test_without_any_header_the_values_stay() -> None:
    assert lines([["12", "34"], ["56", "78"]]) == ["12 | 34", "56 | 78"]


def test_labels_written_once_go_down_but_not_into_totals() -> None:
    rows: list[list[Content]] = [["地域", "店", "売上"], ["東", "柏", "1"], ["", "津田沼", "2"], ["", "小計", "3"]]
    assert lines(rows) == ["地域: 東 | 店: 柏 | 売上: 1", "地域: 東 | 店: 津田沼 | 売上: 2", "店: 小計 | 売上: 3"]


def test_a_cell_of_several_paragraphs_stays_on_its_line() -> None:
    rows: list[list[Content]] = [["手順", "説明"], ["起動", "電源を入れる\n\n30秒待つ"]]
    assert lines(rows) == ["手順: 起動 | 説明: 電源を入れる 30秒待つ"]


def test_spans_cannot_multiply_a_document() -> None:
    with pytest.raises(ExtractionFailed) as caught:
        blocks([[Cell("甲"), Cell("あ" * 90, rows=10**9, columns=10**9)], *[[Cell("乙")] for _ in range(12_000)]])
    assert caught.value.code == "text_too_long"


texts = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), max_size=6)


unnamed = st.text("abxyz0123456789,:;()%・※#森林川アイウ", max_size=5)
"""No word that names a column: a title and a header in the middle would begin a table of their own."""


@given(st.lists(st.lists(unnamed, min_size=1, max_size=5), max_size=7), st.data())
def test_every_value_is_in_the_text(rows: list[list[str]], data: st.DataObject) -> None:
    def cell(text: str, at: int) -> Cell:
        header = data.draw(st.booleans())
        return Cell(text, data.draw(st.integers(1, min(3, len(rows) - at))), data.draw(st.integers(1, 3)), header)

    cells = [[cell(text, at) for text in row] for at, row in enumerate(rows)]
    width = max(map(len, fill_grid(cells)), default=0)
    cells.append([Cell("x") for _ in range(width)])  # a header is written with its values: each has one here
    builder = TextBuilder(max_chars=1_000_000)
    write_table(builder, cells)
    text = builder.build("text/plain").text
    for value in (value for row in rows for value in row):
        assert value in text or value.replace(":", "：") in text or value == "|"  # a bar is written full-width


@given(st.lists(st.tuples(texts, texts), max_size=6))
def test_a_row_is_read_back_as_it_was_written(pairs: list[tuple[str, str]]) -> None:
    shown = [(h.replace("|", "｜") if h == "|" else h, v.replace("|", "｜") if v == "|" else v) for h, v in pairs if v]
    read = read_row(write_row([h for h, _ in pairs], [v for _, v in pairs])) if shown else []
    assert [(cell.header, cell.value) for cell in read] == shown
