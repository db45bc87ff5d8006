"""The evidence stage over passages written here: units, candidates, the choice among them, and what is said."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from core.table_text import read_row, write_row
from core.types import Passage
from generation.evidence.compose import AnsweredBy, decide
from generation.evidence.parameters import shipped_parameters
from generation.evidence.pool import pool_of
from generation.evidence.question import Wanted, read_question
from generation.evidence.ranges import fit, measures_in, ranges_in
from generation.evidence.ranking import FEATURES, features
from generation.evidence.stage import NO_EVIDENCE, Evidence, gather
from generation.evidence.units import UnitKind, units_of
from generation.evidence.western import with_western_years
from retrieval.embedders.multilingual import MultilingualEncoder

TODAY = date(2026, 5, 1)
PARAMETERS = shipped_parameters()
ENCODER = MultilingualEncoder()


def passage(text: str, *, filename: str = "資料.docx", heading: str | None = None, number: int = 1) -> Passage:
    return Passage(
        chunk_id=f"c{number}",
        document_id=f"d{number}",
        generation=1,
        filename=filename,
        page=None,
        heading=heading,
        start=40 * number,
        end=40 * number + len(text),
        text=text,
        score=1.0 / number,
        relevance=0.8,
    )


def asked(question: str, *passages: Passage) -> Evidence:
    return gather(question, passages, PARAMETERS, today=TODAY, bridge=ENCODER)


TARIFF = passage(
    "\n".join(
        write_row(["プラン", "月額", "初期費用", "上限人数"], row)
        for row in (
            ["ライト", "3,200円", "0円", "5名"],
            ["標準", "8,400円", "12,000円", "30名"],
            ["大口", "19,500円", "50,000円", "200名"],
        )
    ),
    filename="藤波クラウド料金.xlsx",
    heading="料金",
)
RULES = passage(
    "第8条　備品の貸出期間は、１４日以内とする。ただし、所属長が認めたときは３０日まで延長することができる。",
    filename="備品規程.docx",
    heading="備品規程 > （貸出期間） 第8条",
    number=2,
)


def test_units_keep_the_offsets_of_the_document() -> None:
    for unit in units_of([TARIFF, RULES]):
        source = (TARIFF, RULES)[unit.passage]
        assert source.text[unit.start - source.start : unit.end - source.start] == unit.text
    rows = [unit for unit in units_of([TARIFF]) if unit.kind is UnitKind.ROW]
    assert [cell.value for cell in rows[1].cells] == ["標準", "8,400円", "12,000円", "30名"]


def test_a_line_broken_at_the_margin_is_one_sentence() -> None:
    text = (
        "在庫照会システムの更新作業が、試験環境の不具合によって当初の予定から\n"
        "八月二十日へ遅れる見込みとなりました。次の報告は金曜です。"
    )
    first, second = units_of([passage(text)])
    assert first.text.endswith("となりました。") and second.text == "次の報告は金曜です。"


def test_a_cell_is_answered_with_what_names_its_row() -> None:
    evidence = asked("標準プランの月額はいくらですか", TARIFF, RULES)
    assert "8,400円" in evidence.lines[0].answer and "標準" in evidence.lines[0].answer
    assert "19,500円" not in evidence.lines[0].answer
    assert evidence.lines[0].passage.text == TARIFF.text.split("\n")[1]


def test_a_sentence_is_quoted_behind_its_heading() -> None:
    best = asked("備品は何日以内に返しますか。貸出期間を教えてください", TARIFF, RULES).lines[0]
    assert "１４日以内" in best.answer and "第8条" in best.answer
    assert best.passage.text in RULES.text


def test_what_is_not_there_is_less_sure_than_what_is() -> None:
    there = asked("標準プランの月額はいくらですか", TARIFF, RULES).confidence
    missing = asked("XG-9000の保証期間は何年ですか", TARIFF, RULES).confidence
    assert missing < PARAMETERS.refuse < there
    assert asked("何か", *[]) is NO_EVIDENCE


@pytest.mark.parametrize(
    ("text", "value", "verdict"),
    [
        ("20kgまで", "15kgの荷物", 1.0),
        ("20kgまで", "25kgの荷物", -1.0),
        ("10kg超20kg以下", "10kgの荷物", -1.0),
        ("片道50km未満", "片道50kmの移動", -1.0),
        ("51~200", "120人で使う", 1.0),
        ("over 30 days", "31 days late", 1.0),
        ("青い箱", "25kgの荷物", 0.0),
    ],
)
def test_a_number_lies_in_a_range_or_not(text: str, value: str, verdict: float) -> None:
    assert fit(measures_in(value), ranges_in(text)) == verdict


def test_questions_tell_the_kind_of_value_they_want() -> None:
    assert Wanted.MONEY in read_question("送料はいくらですか").wanted
    assert Wanted.PERSON in read_question("点検の担当は誰？").wanted
    assert Wanted.DURATION in read_question("How long is the notice period?").wanted
    assert read_question("在宅勤務はできますか").wanted == {Wanted.YES_NO}
    assert read_question("ＱＲ－７７Ｂの電源は").identifiers == {"qr77b"}


def test_era_dates_are_told_in_western_years_too() -> None:
    assert with_western_years("令和７年４月１日から") == "令和７年４月１日（2025年4月1日）から"
    assert with_western_years("平成元年度の予算") == "平成元年度（1989年度）の予算"
    assert with_western_years("2025年4月1日") == "2025年4月1日"


def test_the_line_is_given_where_the_models_words_are_not_borne_out() -> None:
    question = "標準プランの月額はいくらですか"
    evidence = asked(question, TARIFF, RULES)
    shown = [line.passage for line in evidence.lines]
    verdict = decide("9,900円 [1]", question, evidence, shown, PARAMETERS, styled=True)
    assert verdict.answered_by is AnsweredBy.LINE and "8,400円" in verdict.text
    assert verdict.model is not None and not verdict.model.supported
    (citation,) = verdict.citations
    assert citation.quote == evidence.lines[0].passage.text
    assert verdict.text[citation.answer_start : citation.answer_end] == evidence.lines[0].answer


def test_an_adapters_words_are_given_where_they_are_borne_out() -> None:
    question = "標準プランの月額はいくらですか"
    evidence = asked(question, TARIFF, RULES)
    shown = [line.passage for line in evidence.lines]
    said = "8,400円 [1] またどうぞ。"
    assert decide(said, question, evidence, shown, PARAMETERS, styled=True).text == said
    plain = decide(said, question, evidence, shown, PARAMETERS, styled=False)
    assert plain.answered_by is AnsweredBy.LINE and plain.model is not None and plain.model.supported


CANAL = passage(
    "瀬野運河は1887年に着工し、四年後に開通した。設計は技師の大庭恭介による。当初は木材の運搬に使われた。"
    "開通の式には県令が出席し、沿岸の村々は三日にわたって祝った。現在は散歩道として知られる。",
    filename="passage.txt",
)


def test_over_running_text_the_models_words_are_given_where_it_bears_them_out() -> None:
    question = "瀬野運河を設計したのは誰か"
    evidence = asked(question, CANAL)
    assert evidence.lines[0].prose
    said = decide("大庭恭介 [1]", question, evidence, [CANAL], PARAMETERS, styled=False)
    assert (said.text, said.answered_by) == ("大庭恭介 [1]", AnsweredBy.MODEL)
    agreed = decide("瀬野運河 [1]", question, evidence, [CANAL], PARAMETERS, styled=False)
    assert agreed.confidence <= said.confidence, "what stands in the best line is at least as sure as what does not"
    invented = decide("黒木善吉 [1]", question, evidence, [CANAL], PARAMETERS, styled=False)
    assert "黒木" not in invented.text


def test_over_running_text_a_models_refusal_is_kept_where_the_line_is_not_sure() -> None:
    question = "瀬野運河の通行料を決めた法令は何か"
    evidence = replace(asked(question, CANAL), confidence=PARAMETERS.refuse - 0.01)
    refused = decide("資料には見つかりませんでした。", question, evidence, [CANAL], PARAMETERS, styled=False)
    assert refused.answered_by is AnsweredBy.NOBODY and not refused.citations
    sure = replace(evidence, confidence=0.999)
    line = decide("資料には見つかりませんでした。", question, sure, [CANAL], PARAMETERS, styled=False)
    assert line.answered_by is AnsweredBy.LINE


def test_lines_of_a_log_are_no_running_text() -> None:
    log = passage(
        "2026-04-02T10:15:03+09:00 INFO pump7 started by sakata\n2026-04-02T10:19:44+09:00 WARN pump7 pressure low\n",
        filename="pump.log",
    )
    assert not asked("Who started pump7?", log).lines[0].prose


def test_candidates_in_another_language_are_told_apart() -> None:
    assert len(set(FEATURES)) == len(FEATURES)
    pool = pool_of("What is the monthly fee of the standard plan?", [TARIFF, passage("Nothing.", number=3)], TODAY)
    foreign = features(pool)[:, FEATURES.index("foreign")]
    assert [bool(one) for one in foreign] == [pool.unit_of(one).passage == 0 for one in pool.candidates]


def test_rows_are_read_back_as_written() -> None:
    line = write_row(["品番", "備考: 色", "価格"], ["A|B-1", "青 | 白", ""])
    assert [(cell.header, cell.value) for cell in read_row(line)] == [("品番", "A|B-1"), ("備考：色", "青 ｜ 白")]


@pytest.mark.parametrize(
    ("question", "text", "answer"),
    [
        (
            "渡邉さんの役割は",
            "理事長は渡辺、会計は髙田、書記は﨑山である。会合は毎月第1火曜に開く。",
            "理事長は渡辺",
        ),
        (
            "申込書のURL",
            "申込書は総務のページ (https://soumu.example.jp/f/12)から取り出す。控えは3年保存する。",
            "https://soumu.example.jp/f/12",
        ),
    ],
)
def test_nouns_that_name_what_is_wanted_need_not_stand_there(question: str, text: str, answer: str) -> None:
    found = asked(question, passage(text))
    assert answer in found.lines[0].answer and found.confidence >= PARAMETERS.refuse


def test_rows_under_a_role_are_answered_from() -> None:
    rows = (["経費精算", "総務課 大野", "翌営業日"], ["入退室管理", "施設課 森", "2時間"])
    table = "\n".join(write_row(["システム", "管理者", "復旧目標"], row) for row in rows)
    found = asked("入退室管理システムの復旧目標は", passage(table))
    assert "2時間" in found.lines[0].answer and found.confidence >= PARAMETERS.verify


SECTIONS = [
    passage(f"- 一度に送れる件数は{count}件です。", heading=f"変更履歴 > v{version}", number=3)
    for version, count in (("1.8.0（2030-02-01）", 100), ("1.10.0（2030-09-15）", 500), ("1.9.2（2030-06-01）", 250))
]
"""Sections of one document, out of order."""


@pytest.mark.parametrize(
    ("question", "count"),
    [
        ("一度に送れる件数は？", "500件"),
        ("今は一度に何件送れますか", "500件"),
        ("v1.9.2で一度に送れる件数は", "250件"),
    ],
)
def test_of_dated_sections_the_latest_one_holds(question: str, count: str) -> None:
    assert count in asked(question, *SECTIONS).lines[0].answer


def test_a_line_of_a_log_is_given_whole() -> None:
    log = passage("2030-05-01 10:01:00 ERROR 接続失敗：北支店\n2030-05-01 10:02:00 INFO 再接続：北支店")
    assert "北支店" in asked("接続失敗の相手は", log).lines[0].answer
