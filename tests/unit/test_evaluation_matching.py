"""Whether an answer says what was expected: notations are one, parts of longer numbers and names are not."""

from __future__ import annotations

import time

import pytest

from generation.evaluation.matching import Folded, holds, in_order, judge, says_not_found
from generation.evaluation.notation import one_notation

SAME = [
    ("料金は１２，３００円です", "12300円"),
    ("料金は1万2300円です", "12,300円"),
    ("予算は1.5億円", "150000000円"),
    ("予算は2千万円", "20,000,000円"),
    ("¥4,500（税別）", "4500円"),
    ("4500 yen", "4,500円"),
    ("it costs $1,250.00", "$1250"),
    ("率は 8.5 パーセント", "8.5%"),
    ("８．５％", "8.5 percent"),
    ("期間は６ヶ月", "6か月"),
    ("期間は6カ月", "６ヵ月"),
    ("6箇月以内", "6か月"),
    ("2025/07/03 に届く", "2025年7月3日"),
    ("2025-07-03T09:05", "2025年7月3日"),
    ("納期2025.7.3", "7月3日"),
    ("by 3rd July 2025.", "2025-07-03"),
    ("on July 3, 2025", "3 July 2025"),
    ("from 4 Aug to 8 Aug", "8月8日"),
    ("期限は7/3です", "7月3日"),
    ("2025年 7 月 3 日", "2025年7月3日"),
    ("2025年07月", "2025/7"),
    ("受付は午後3時30分まで", "15:30"),
    ("open until 3:30 p.m.", "15時30分"),
    ("閉店は15時", "15:00"),
    ("closes at 12 am", "0:00"),
    ("９時半から", "9:30"),
    ("受付：11:30～20:00", "20時"),
    ("担当：髙橋・山﨑", "高橋"),
    ("内線 03‐1234−5678", "03-1234-5678"),
    ("Use PUT, then wait", "put"),
    ("no, it is not", "No"),
    ("東京 都 港区", "東京都港区"),
    ("total 395.00 EUR", "395"),
    ("型番は DM-30、在庫あり", "DM-30"),
    ("型番はDM-30です", "dm-30"),
    ("はい、使えます", "はい"),
    ("回答: いいえです", "いいえ"),
    ("from 2-4 September", "4 Sep"),
    ("September 2-4", "2 Sep"),
    ("所要1時間30分", "30分"),
]
OTHER = [
    ("1300円", "300円"),
    ("3001 units", "300"),
    ("0.5%", "5%"),
    ("395.5", "395"),
    ("version 3.1.2", "3.1"),
    ("型番はDM-30P", "DM-30"),
    ("型番はDM-30-A", "DM-30"),
    ("型番はADM-30", "DM-30"),
    ("型番はDM-300", "300"),
    ("長さは5mm", "5m"),
    ("notice the output", "no"),
    ("computing", "put"),
    ("15時30分まで", "15:00"),
    ("所要15時間", "15:00"),
    ("2025年7月31日", "7月3日"),
    ("2025年17月", "7月"),
    ("令和7年4月1日", "2025年4月1日"),
    ("棚はA02,248個", "2248"),
    ("3 5", "35"),
    ("12万が必要", "12"),
    ("it may 3 times fail", "5月3日"),
    ("処理は2:30に終わる", "30分"),
    ("一日はいくらですか", "はい"),
    ("はいけい", "はい"),
]


@pytest.mark.parametrize(("text", "wanted"), SAME)
def test_is_there(text: str, wanted: str) -> None:
    assert holds(Folded.of(text), wanted), (one_notation(text), one_notation(wanted))


@pytest.mark.parametrize(("text", "wanted"), OTHER)
def test_is_not_there(text: str, wanted: str) -> None:
    assert not holds(Folded.of(text), wanted), (one_notation(text), one_notation(wanted))


def test_one_alternative_of_every_group() -> None:
    expected = [["3名", "三名"], ["第2会議室"]]
    assert judge("三名で第2会議室を使います", expected).right
    assert judge("3名で会議室を使います", expected).missing == ("第2会議室",)


def test_a_competing_value_makes_it_wrong() -> None:
    assert judge("A棟は500円、B棟は700円です", [["500円"]], ["700円"]).competing == ("700円",)
    assert judge("A棟は500円です", [["500円"]], ["700円"]).right
    assert judge("500円（旧料金は450円）です [2]", [["500円"]], ["450円"]).right  # an aside on what held before
    assert judge("The fee is 500 (previously 450)", [["500"]], ["450"]).right
    assert judge("up to £30 per person (was £25)", [["£30"]], ["£25"]).right
    assert judge("40 (cold water 25)", [["40"]], ["25"]).competing == ("25",)
    assert judge("500円（B棟は450円）です", [["500円"]], ["450円"]).competing == ("450円",)


def test_a_competing_value_inside_the_expected_one_is_none() -> None:
    assert judge("有給は10日間です", [["10日間"]], ["10日"]).right
    assert not judge("有給は10日間、特休は10日です", [["10日間"]], ["10日"]).right


def test_citation_marks_and_list_numbers_are_no_text() -> None:
    assert judge("It is blue [3].", [["3"]]).missing == ("3",)
    assert judge("1. blue\n2. red", [["2"]]).missing == ("2",)
    assert judge("It is 3 [1].", [["3"]]).right


@pytest.mark.parametrize(
    "answer",
    [
        "資料には見つかりませんでした。",
        "この資料にその記載はありません。",
        "提供された文書からは判断できません。",
        "該当する情報が見当たりません",
        "申し訳ありませんが、分かりません。",
        "I could not find this in the documents.",
        "The passages do not mention a discount.",
        "There is no information about parking in the provided text.",
        "The document doesn’t say who signed it.",
        "I don't know.",
    ],
)
def test_refusals_in_words(answer: str) -> None:
    assert says_not_found(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "サーバーが見つかりませんと表示されたら再起動します。",
        "追加料金はありません。",
        "E-404 means that the page could not be reached.",
        "The deposit is not refunded.",
        "No, staff may not park there.",
        "書類は総務部に提出します。",
    ],
)
def test_answers_that_deny_something_are_none(answer: str) -> None:
    assert not says_not_found(answer)


def test_evidence_parts_stand_in_their_order() -> None:
    text = Folded.of("機種: KS-7 | 価格: 1,200円 | 納期: 3週間")
    assert in_order(text, ["KS-7", "1200円"]) and not in_order(text, ["1200円", "KS-7"])


@pytest.mark.parametrize(
    "unit", ["1,000", "12:30 ", "2025/1/1/", "1万", "a ", "does not ", "資料", "（旧", "- ", "㈱", "0.0"]
)
def test_time_grows_with_the_text_and_no_faster(unit: str) -> None:
    text = (unit * 20_000)[:20_000]
    began = time.thread_time()  # others may use the processor meanwhile
    judge(text, [["x9"], [unit]], ["7", unit])
    says_not_found(text)
    assert time.thread_time() - began < 2.0
