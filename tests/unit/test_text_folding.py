from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.kanji_variants import VARIANTS
from core.text_folding import fold
from retrieval.equivalents import equivalent_terms
from retrieval.lexical import BigramBm25, term_id, tokenize

PIECES = st.text(
    alphabet="0123456789,.ー-ヶケカか月日年条第〇零一二三四五六七八九十拾百千万億兆円半期分"
    "壱參髙齋Aßヴ\u0301\u3099\u200b 〜"
)


@given(st.one_of(st.text(max_size=80), PIECES))
@example("ß\u0301")
@example("1,二三四円")
@example("ウ\u200b\u3099ィ")
@example("第二四半期四半期")
@example("İﬃΐ")
def test_folding_is_idempotent(text: str) -> None:
    assert fold(fold(text)) == fold(text)


@pytest.mark.parametrize(
    "written",
    [
        ("高橋", "髙橋"),
        ("山崎", "山﨑", "山嵜"),
        ("横浜市", "横濱市"),
        ("渡辺", "渡邊", "渡邉", "渡邉\U000e0102"),
        ("斉藤", "齋藤", "齊藤", "斎藤"),
        ("国学院", "國學院"),
        ("3か月", "三ヶ月", "3カ月", "３ケ月", "3箇月", "三ヵ月"),
        ("霞が関", "霞ヶ関", "霞ケ関"),
        ("第31条", "第三十一条", "第３１条"),
        ("20日", "二十日", "２０日"),
        ("120000円", "12万円", "１２万円", "12万円", "120,000円", "十二万円", "壱拾弐万円"),
        ("250000000円", "2億5千万円", "二億五千万円"),
        ("1.5", "１．５"),
        ("15000", "1.5万"),
        ("2025年", "二〇二五年"),
        ("第2四半期", "第二四半期"),
        ("サーバー", "ｻｰﾊﾞｰ", "サ−バー"),
        ("バイオリン", "ヴァイオリン"),
        ("10~20", "10〜20", "10～20"),
        ("ppr-9087", "ＰＰＲ－９０８７", "PPR‐9087", "PPRー9087"),
        ("soft", "so\u00adft"),
    ],
)
def test_what_people_write_in_two_ways_is_one(written: tuple[str, ...]) -> None:
    assert {fold(one) for one in written} == {written[0]}


@pytest.mark.parametrize(
    "word",
    [
        "一般",
        "三重県",
        "四国",
        "十分",
        "千葉県",
        "千歳市",
        "万年筆",
        "1千葉市",
        "十万千千円",
        "〇〇年",
        "六法",
        "参考",
        "三四郎",
    ],
)
def test_words_that_only_look_like_numerals_stay(word: str) -> None:
    assert fold(word) == word


def test_no_variant_leads_to_another_variant_and_each_is_one_character() -> None:
    assert len(VARIANTS) > 500
    assert not set(VARIANTS) & set(VARIANTS.values())
    for old, new in VARIANTS.items():
        assert len(old) == len(new) == 1
        assert unicodedata.normalize("NFKC", new) == new


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("令和7年度の予算", "2025年度", "2025"),
        ("平成元年", "1989年", "1989"),
        ("R7.5.12", "2025/5/12", "2025-05-12"),
        ("令和七年七月一日", "July 1, 2025", "2025-07-01"),
        ("議事録_20250612", "6月12日", "06-12"),
        ("7月", "Jul", "month-07"),
        ("in March", "3月", "month-03"),
        ("1st of July 2025", "2025-07", "2025-07"),
        ("午後2時", "2 p.m.", "14:00"),
        ("17時半", "17:30", "17:30"),
        ("03-1234-5678", "0312345678", "0312345678"),
        ("０９０（１２３４）５６７８", "09012345678", "09012345678"),
        ("three months", "3 months", "3"),
        ("one week", "1 week", "1"),
        ("サーバー", "サーバ", "サーバ"),
    ],
)
def test_two_ways_of_writing_share_a_term(one: str, other: str, shared: str) -> None:
    assert shared in tokenize(one) and shared in tokenize(other)
    indexed = BigramBm25().encode_passage(one).indices
    asked = BigramBm25().encode_query(other).indices
    assert term_id(shared) in indexed and term_id(shared) in asked


@pytest.mark.parametrize(
    "text",
    [
        "you may ask",
        "2時間",
        "no one",
        "R-7",
        "型番 H20",
        "192.168.1.10",
        "3.14",
        "1800 units",
        "99/99",
        "令和",
        "0 1 2",
    ],
)
def test_no_term_is_made_up(text: str) -> None:
    assert equivalent_terms(fold(text)) == []


@given(PIECES)
def test_any_text_has_its_equivalents(text: str) -> None:
    assert all(equivalent_terms(fold(text)))
