"""Parts of a line that tell amounts in one unit, and the column of a row that a question names."""

from __future__ import annotations

import pytest

from generation.evidence.candidates import Form
from generation.evidence.parts import amounts_alike
from generation.evidence.pool import pool_of
from generation.evidence.question import identifiers_in, read_question
from generation.evidence.ranking import FEATURES, features
from tests.unit.test_evidence import TODAY, passage


@pytest.mark.parametrize(
    ("question", "text", "answer"),
    [
        (
            "M12のボルトの締付トルク",
            "ボルトの締付トルクは、M8が12～15N・m、M10が25～30N・m、M12が43～51N・mとする。点検は月に一度行う。",
            "M12が43～51N・mとする。",
        ),
        (
            "seal life of the green cartridge",
            "Cartridges by colour: (1) red cartridge, sealed for 6 months; (2) green cartridge, sealed for 18 months.",
            "(2) green cartridge, sealed for 18 months.",
        ),
    ],
)
def test_of_parts_that_tell_amounts_in_one_unit_the_one_asked_for_is_given(
    question: str, text: str, answer: str
) -> None:
    pool = pool_of(question, [passage(text)], TODAY)
    assert pool.candidates[pool.narrow(0)].text == answer


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("employer share of the pension", "Pension: you pay 5 % of the salary, the company 7 %, each month."),
        ("当日に取り消すと取消料はかかりますか", "※取消料：前日17時以降は3,300円、当日は5,500円を申し受けます。"),
    ],
)
def test_the_first_of_them_is_not_taken_for_what_leads_in_to_all(question: str, text: str) -> None:
    pool = pool_of(question, [passage(text)], TODAY)
    assert pool.narrow(0) == 0


def test_amounts_are_alike_only_in_one_unit() -> None:
    assert amounts_alike(["m8が12~15n・m", "m10が25n・m", "月に1度"]) == [True, True, False]
    assert amounts_alike(["3円", "4kg"]) == [False, False]


def test_of_a_row_the_column_is_given_that_the_question_names_more_of() -> None:
    rows = "\n".join(
        f"ホール: {hall} | 平日 / 昼: {a} | 平日 / 夜間: {b} | 休日 / 昼: {c} | 休日 / 夜間: {d}"
        for hall, a, b, c, d in (
            ("楓", "7,100", "9,300", "8,200", "11,400"),
            ("柊", "3,100", "4,300", "3,900", "5,600"),
        )
    )
    pool = pool_of("楓ホールの休日夜間は？", [passage(rows)], TODAY)
    row = next(at for at, one in enumerate(pool.candidates) if one.form is Form.UNIT and "楓" in one.text)
    answer = pool.candidates[pool.narrow(row)]
    assert answer.form is Form.CELL and "11,400" in answer.text and "9,300" not in answer.text
    pool = pool_of("楓ホールの料金表は？", [passage(rows)], TODAY)
    assert pool.narrow(row) == row, "no column is named"
    pool = pool_of("総務課長のメールは", [passage("氏名: 東 | 部署: 総務課 | 役職: 課長 | 連絡: a@b.example")], TODAY)
    assert pool.narrow(0) == 0, "課 of 部署 and 役職 names none of them"


@pytest.mark.parametrize("text", ["6.3kw", "40km", "120ppm", "2nd", "35m"])
def test_a_measure_is_no_identifier_but_its_number_is_read(text: str) -> None:
    assert identifiers_in(text) == frozenset()
    assert read_question(f"幅{text}の型番").numbers == {text.rstrip("kwmpnd")}


@pytest.mark.parametrize("text", ["sx-4056t", "r32", "4u7", "c02", "3f-12"])
def test_what_names_a_thing_is_an_identifier(text: str) -> None:
    assert identifiers_in(text)


def test_a_number_that_names_the_whole_form_is_missing_from_none_of_its_lines() -> None:
    form = passage("報告番号: KJ-25-031\n発生場所: 第2倉庫\n\n原因は、はしごの留め金の錆である。", number=1)
    other = passage("報告番号: KJ-25-044\n発生場所: 第1倉庫\n\n原因は、床の油である。", number=2)
    pool = pool_of("KJ-25-031の原因は何ですか", [form, other], TODAY)
    missing = features(pool)[:, FEATURES.index("identifiers_missing")]
    told = {
        pool.passages[pool.unit_of(one).passage].document_id: value
        for one, value in zip(pool.candidates, missing, strict=True)
        if "原因は" in one.text and "、" in one.text
    }
    assert told[form.document_id] == 0 and told[other.document_id] == 1
