"""Flags of a set: near duplicates in both languages, contradictions, outliers, private data; nothing is dropped."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from core.errors import Cancelled
from tests.unit.test_tuning_prepare import prepared, shelves
from tuning.datasets import near
from tuning.datasets.near import near_pairs
from tuning.datasets.quality import quality_report
from tuning.datasets.secrets import find_private
from tuning.split import split

JA = "倉庫の第三区画には青い箱が四十二個あり、毎週金曜日の午後に担当者が数を数えて台帳に記入します。"
EN = "The third bay of the warehouse holds forty-two blue boxes, and every Friday afternoon a clerk counts them."


def chat(question: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **more}


def report(*contents: dict[str, Any]) -> dict[str, Any]:
    return quality_report([(line, content) for line, content in enumerate(contents, start=1)])


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        (JA, JA.replace("金曜日", "月曜日"), "本社の受付は一階にあり、来客は内線百番で担当部署を呼び出してください。"),
        (
            EN,
            EN.replace("Friday", "Monday"),
            "Visitors ring the front desk on the first floor and wait for their host.",
        ),
    ],
)
def test_near_duplicates_are_found_in_both_languages(text: str, near: str, far: str) -> None:
    assert [(one, two) for one, two, _ in near_pairs([text, far, near, text.upper()])] == [(0, 2), (0, 3), (2, 3)]


def test_width_case_and_space_make_no_other_text() -> None:
    found = report(
        chat("ＡＢＣ とは？", "アルファベットです。"), chat("abcとは?", "ｱﾙﾌｧﾍﾞｯﾄです。"), chat("いろは？", "歌です。")
    )
    assert found["flags"]["duplicate"] == [
        {"line": 2, "of": 1, "reason": "the same but for width, case or white space"}
    ]
    assert found["rows"] == 3 and found["flagged_rows"] == 1 and found["languages"] == {"ja": 3}


def test_contradictions_name_both_rows_and_their_numbers() -> None:
    found = report(
        chat("有給休暇は何日？", "２５日です。"),
        chat("有給休暇は何日?", "20日です。"),
        chat("Why?", "Because of the rain."),
        chat("Why?", "It rained."),
    )
    (contradiction,) = found["flags"]["contradiction"]
    assert (contradiction["line"], contradiction["of"]) == (2, 1)
    assert contradiction["reason"] == "the same question is answered with 20 here and 25 there"
    assert [entry["line"] for entry in found["flags"]["conflicting_answers"]] == [4]


def test_the_same_question_over_other_passages_contradicts_nothing() -> None:
    one = chat("How many days?", "25 days [1].", passages=[{"text": "Staff get 25 days."}])
    two = chat("How many days?", "20 days [1].", passages=[{"text": "Interns get 20 days."}])
    assert "contradiction" not in report(one, two)["counts"]


def test_style_outliers_and_lengths_are_told_against_the_rest_of_their_language() -> None:
    polite = [chat(f"質問{n}番は何ですか。", f"答えは項目{n * 7919}です。") for n in range(40)]
    found = report(*polite, chat("態度は？", "答えは態度である。"), chat("長さは？", "とても長い説明が続きます。" * 60))
    assert [entry["line"] for entry in found["flags"]["style_outlier"]] == [41]
    assert "である" in found["flags"]["style_outlier"][0]["reason"]
    assert [entry["line"] for entry in found["flags"]["length_outlier"]] == [42]


def test_an_answer_in_another_language_is_flagged() -> None:
    found = report(chat("休暇は何日ありますか。", "You have twenty-five days of leave each year."))
    assert found["flags"]["language_changes"][0]["reason"] == "asked in 'ja', answered in 'en'"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("鍵は AKIAIOSFODNN7EXAMPLE です", "aws_access_key"),
        ("-----BEGIN RSA PRIVATE KEY-----", "private_key"),
        ("token ghp_" + "a1B2" * 9, "github_token"),
        ("パスワードは hunter2-again です", "password"),
        ("postgres://tsumugi:s3cret@db/main", "url_credentials"),
        ("連絡先：ｔａｒｏ＠ｃｏｍｐａｎｙ．ｃｏ．ｊｐ", "email"),
        ("電話は０３－１２３４－５６７８です", "phone"),
        ("call 415-555-2671", "phone"),
        ("card 4111 1111 1111 1111", "card_number"),
        ("個人番号は 123456789018 です", "my_number"),
        ("〒100-0001 東京都千代田区", "postal_address"),
    ],
)
def test_private_data_is_found_and_masked(text: str, kind: str) -> None:
    found = list(find_private(text))
    assert [finding.kind for finding in found] == [kind]
    assert "*" in found[0].masked or kind == "private_key"


@pytest.mark.parametrize(
    "text",
    ["品番 PPR-9087", "4111 1111 1111 1112", "123456789012", "mail me at x@example.com", "2026-03-01 から 2026-04-01",
     "パスワードは推測されにくいものにしましょう", "全部で 0000000000000000 個"],
)  # fmt: skip
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert list(find_private(text)) == []


def test_near_duplicates_do_not_straddle_the_split() -> None:
    contents = []
    for n in range(60):
        words = " ".join(f"{(n * 7919 + step * 104729) % 99991:x}" for step in range(60))
        contents.append(chat(f"What about unit {n}?", words))
        contents.append(chat(f"What about unit {n}, please?", words))
    train, held = split(contents, seed=17)
    assert len(held) >= 8 and not {at // 2 for at in train} & {at // 2 for at in held}


def test_a_row_that_repeats_an_evaluation_item_is_left_out_with_its_name(tmp_path: Path) -> None:
    lines = (resources.files("tuning") / "probes" / "grounded.jsonl").read_text("utf-8").splitlines()
    probe = json.loads(lines[0])
    leak = chat(probe["question"], "It says so [1].", passages=probe["passages"])
    found = prepared(tmp_path, [*shelves(40), leak])
    assert [entry["code"] for entry in found.skipped] == ["evaluation_leak"]
    assert "the evaluation's own item" in found.skipped[0]["detail"] and found.train_rows + found.held_out_rows == 40


def template_rows(count: int) -> list[str]:
    """Rows of one template: any two share some seven in ten of their 5-grams, and none is a copy."""
    common = "申請書は所属長の承認を受けたうえで経理部へ提出し、控えを五年間保管してください。"
    slots = ((n * 7919 % 99991, n * 104729 % 99989, n * 1299709 % 99971) for n in range(count))
    return [f"{common}番号{number:05d}、担当{who:05d}、期限{until:05d}" for number, who, until in slots]


def test_rows_of_one_template_are_compared_with_a_bounded_number_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, exact = 0, near._jaccard

    def counted(one: Any, two: Any) -> float:
        nonlocal compared
        compared += 1
        return exact(one, two)

    monkeypatch.setattr(near, "_jaccard", counted)
    monkeypatch.setattr(near, "_CROWD", 32)  # as with many more rows
    texts = template_rows(600)
    texts += [texts[3] + "。", texts[590] + "。"]  # copies, of a row from before and from after the crowd
    pairs = near_pairs(texts, threshold=0.9)
    assert {(3, 600), (590, 601)} <= {(one, two) for one, two, _ in pairs}
    assert compared <= 2 * near._COMPARED * len(texts)
    looked: list[int] = []
    held = near._worth_comparing
    monkeypatch.setattr(near, "_worth_comparing", lambda s, p, c, t: looked.append(len(c)) or held(s, p, c, t))
    near_pairs(texts, threshold=0.9)
    assert max(looked) <= 200, "an index that is full takes no more of what resembles what it holds"


def test_the_search_for_copies_can_be_stopped_at_every_row() -> None:
    seen = 0

    def stop_at_ten() -> None:
        nonlocal seen
        seen += 1
        if seen == 10:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        near_pairs(template_rows(200), look=stop_at_ten)
    assert seen == 10
