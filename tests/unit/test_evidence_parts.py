"""What a line says of several things, and what is left when it is narrowed to the one that is asked for."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from core.types import Passage
from generation.evidence.candidates import Form
from generation.evidence.meaning import MEANING_FEATURES, Said, compare
from generation.evidence.parts import complete, narrowed, said_part
from generation.evidence.pool import Pool, pool_of
from generation.evidence.ranking import FEATURES, SPEAKS_AGAINST, SPEAKS_NEITHER
from generation.evidence.units import UnitKind, units_of
from retrieval.embedders.multilingual import MultilingualEncoder

TODAY = date(2026, 5, 1)


def pool(question: str, text: str, *, heading: str | None = None) -> Pool:
    passage = Passage("c", "d", 1, "資料.docx", None, heading, 0, len(text), text, 1.0, 0.8)
    return pool_of(question, [passage], TODAY)


def said(told: Pool, form: Form, text: str) -> str:
    """What a candidate of a form that begins with a text is narrowed to."""
    at = next(number for number, one in enumerate(told.candidates) if one.form is form and one.text.startswith(text))
    return told.candidates[told.narrow(at)].text


def test_the_part_that_covers_more_of_the_question_is_meant_and_no_tie_is() -> None:
    assert narrowed([0.1, 0.6, 0.2], [True, True, True]) == 1
    assert narrowed([0.4, 0.4], [True, True]) is None
    assert narrowed([0.9, 0.2], [False, True]) is None


def test_a_sentence_that_tells_a_value_of_each_is_narrowed_to_the_one_asked_for() -> None:
    text = "回線の月額は、本店が48,000円、支店が31,000円、営業所が12,500円です。"
    assert said(pool("支店の回線の月額はいくらですか", text), Form.UNIT, "回線") == "支店が31,000円"
    english = "Spares: filter FL-2 £14, hose HS-9 £31, lamp LP-4 £8."
    assert said(pool("price of the hose", english), Form.UNIT, "Spares") == "hose HS-9 £31"


def test_a_question_of_two_things_keeps_both() -> None:
    text = "・【決定】物流展に3小間で出展する。予算は190万円を上限とする。"
    assert "190万円" in said(pool("物流展は何小間？予算はいくら？", text), Form.PAIR, "・【決定】")


@pytest.mark.parametrize("text", ["（6月30日完了", "休暇を希望する者には", "納品が", "「至急"])
def test_what_cannot_be_read_by_itself_is_no_answer(text: str) -> None:
    assert not complete(text)


def test_a_label_is_said_whole_or_not_at_all() -> None:
    assert said_part("料金 / 夜間", "夜間の料金は") == 1.0
    assert said_part("3日", "週13日の") == 0.0
    assert said_part("3日", "週3日の") == 1.0


def test_a_line_that_only_repeats_the_question_answers_nothing() -> None:
    text = "受付番号: TK-0931\n原因: 端子の緩み"
    texts = [one.text for one in pool("TK-0931の原因は？", text).candidates]
    assert texts == ["原因: 端子の緩み"]
    assert len(pool("受付番号はTK-0931か、それともTK-0913ですか", text).candidates) == 2


def test_a_log_has_a_unit_a_line() -> None:
    text = (
        "2026-02-11T04:12:09+09:00 WARN  pump-3 pressure below limit value=0.21\n"
        "2026-02-11T04:12:40+09:00 INFO  pump-3 restarted by the watchdog after 31 seconds\n"
        "2026-02-11T04:13:02+09:00 ERROR pump-3 pressure sensor gives no value at all\n"
    )
    assert len(pool("why was pump-3 restarted", text).units) == 3


def test_columns_set_by_spaces_are_lines_of_their_own() -> None:
    text = "高断熱窓　　　　　　三分の一以内　　上限四十万円\n太陽光パネル　　　　四分の一以内　　上限七十万円"
    assert len(pool("太陽光パネルの上限", text).units) == 2


def test_one_label_before_sentences_is_no_row() -> None:
    units = units_of(
        [
            Passage(
                "c",
                "d",
                1,
                "n.md",
                None,
                None,
                0,
                90,
                "E-04: fan is blocked, clean it. E-05: belt is worn, replace it.",
                1,
                1,
            )
        ]
    )
    assert [unit.kind for unit in units] == [UnitKind.SENTENCE, UnitKind.SENTENCE]
    short = units_of([Passage("c", "d", 1, "n.md", None, None, 0, 20, "電話: 03-0000-1111", 1, 1)])
    assert [unit.kind for unit in short] == [UnitKind.ROW]


def test_what_a_fit_may_turn_round_is_known_by_name() -> None:
    assert set(FEATURES) >= SPEAKS_AGAINST | SPEAKS_NEITHER
    assert not SPEAKS_AGAINST & SPEAKS_NEITHER
    assert len(set(FEATURES)) == len(FEATURES)


def test_tokens_of_the_multilingual_encoder_add_up_to_its_vectors() -> None:
    encoder = MultilingualEncoder()
    texts = ["第12条 休職の期間", "How long is the leave?", "あ" * 700, "x", "価格 1,200円"]
    vectors, tokens = encoder.encode_with_tokens(texts)
    np.testing.assert_allclose(vectors, encoder.encode_passages(texts), atol=2e-4)
    assert [len(rows) > 0 for rows in tokens] == [True] * len(texts)
    assert all(np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3) for rows in tokens)


def test_meaning_is_heard_across_languages() -> None:
    rows = compare(
        "What does the battery weigh?",
        [
            Said("電池の重さ: 2.4kg", "仕様書", "電池の重さ", "2.4kg"),
            Said("保証期間: 2年", "仕様書", "保証期間", "2年"),
            Said("連絡先: 営業部", "仕様書", "連絡先", "営業部"),
        ],
        MultilingualEncoder(),
    )
    column = {name: at for at, name in enumerate(MEANING_FEATURES)}
    assert int(rows[:, column["soft_beside"]].argmax()) == 0
    assert rows[:, column["label_soft_best"]].tolist() == [1.0, 0.0, 0.0]


def test_semicolons_hold_together_what_commas_part() -> None:
    text = "Warnings: (a) first warning, live for 3 months; (b) second warning, live for 9 months."
    answer = said(pool("How long is a second warning live?", text), Form.UNIT, "Warnings")
    assert answer == "(b) second warning, live for 9 months."


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("入館に要るものは", "入館するときは、次のものを持参する。\n(1) 社員証\n(2) 入館申請書\n(3) 上履き"),
        (
            "What must a visitor bring?",
            "Visitors bring the following items.\n- photo identity card\n- letter of invitation",
        ),
    ],
)
def test_a_line_that_announces_a_list_is_answered_with_it(question: str, text: str) -> None:
    told = pool(question, text)
    whole = [one for one in told.candidates if one.first == 0 and one.form is not Form.CLAUSE]
    assert [one.form for one in whole] == [Form.BLOCK]
    assert all(line.split(" ", 1)[-1] in whole[0].text for line in text.split("\n")[1:])
    assert {unit.lead for unit in told.units[1:]} == {told.units[0].text}


def test_two_columns_named_side_by_side_are_one_answer() -> None:
    row = "作業: 棚の組立 | 担当者: 浜口 | 期限: 9月12日 | 備考: なし"
    both = [one.text for one in pool("棚の組立の担当者と期限は？", row).candidates if one.form is Form.CELL]
    assert "棚の組立 担当者: 浜口 期限: 9月12日" in both
    one_only = [one.text for one in pool("棚の組立の期限を担当者に聞いて", row).candidates if one.form is Form.CELL]
    assert not any("担当者" in text and "期限" in text for text in one_only)
    english = "Item: kettle | Price: £24 | Weight: 1.2 kg"
    found = [one.text for one in pool("price and weight of the kettle", english).candidates]
    assert "kettle Price: £24 Weight: 1.2 kg" in found
