from core.types import Passage
from generation.citations import cite, find_support


def passage(text: str, start: int = 0, number: int = 1) -> Passage:
    return Passage(
        chunk_id=f"c{number}",
        document_id=f"d{number}",
        generation=1,
        filename=f"f{number}.txt",
        page=None,
        heading=None,
        start=start,
        end=start + len(text),
        text=text,
        score=1.0,
        relevance=1.0,
    )


def test_short_answer_is_cited_with_the_sentence_that_holds_it() -> None:
    text = "It opened in 2010. The annual leave is 10 days. Staff like it."
    (citation,) = cite("10 days [1]", [passage(text, start=100)])
    assert citation.verified
    assert citation.quote == "The annual leave is 10 days."
    assert (citation.start, citation.end) == (100 + text.index("The"), 100 + text.index(" Staff"))
    assert "10 days [1]"[citation.answer_start : citation.answer_end] == "10 days"


def test_number_inside_another_number_is_no_support() -> None:
    (citation,) = cite("10 [1]", [passage("Founded in 2010.")])
    assert not citation.verified


def test_a_part_of_a_longer_code_or_word_is_no_support() -> None:
    (longer,) = cite("QX-40 [1]", [passage("部品 QX-40B は在庫切れです。")])
    assert not longer.verified
    (same,) = cite("QX40 [1]", [passage("部品 QX-40 は在庫切れです。")])
    assert same.verified
    (inside,) = cite("テスト [1]", [passage("秋のコンテストを開きます。")])
    assert not inside.verified


def test_full_width_and_separators_match() -> None:
    (citation,) = cite("１，２００円です [1]", [passage("送料は1,200円です。")])
    assert citation.verified
    assert citation.quote == "送料は1,200円です。"


def test_claim_is_the_sentence_before_the_marker_not_the_greeting() -> None:
    answer = "お問い合わせありがとうございます。締切は毎月25日です。[2] 以上です。"
    found = cite(answer, [passage("別の話。"), passage("経費の締切は毎月25日です。", number=2)])
    assert [answer[c.answer_start : c.answer_end] for c in found] == ["締切は毎月25日です。"]
    assert found[0].index == 2
    assert found[0].verified


def test_wrong_passage_stays_unverified_and_is_not_moved() -> None:
    (citation,) = cite("25 days [1]", [passage("Nothing here."), passage("It takes 25 days.", number=2)])
    assert citation.index == 1
    assert not citation.verified


def test_paraphrase_needs_all_numbers() -> None:
    source = "Refunds are paid within 14 days of the request."
    assert find_support("The refund request is paid in 14 days", source)[2]
    assert not find_support("The refund request is paid in 15 days", source)[2]


def test_several_markers_and_lists() -> None:
    one, two = passage("The price is 300 yen."), passage("The price is 300 yen in Kyoto.", number=2)
    assert [c.index for c in cite("300 yen [1][2]", [one, two])] == [1, 2]
    assert [c.index for c in cite("300 yen [1, 2]", [one, two])] == [1, 2]
    assert cite("300 yen [7]", [one, two]) == []


def test_unmarked_answer_is_cited_only_word_for_word() -> None:
    source = passage("The price is 300 yen.")
    assert [c.verified for c in cite("300 yen", [source])] == [True]
    assert cite("about three hundred", [source]) == []


def test_offsets_count_code_points() -> None:
    text = "🍵のお茶は𠮷野家で500円。次。"
    (citation,) = cite("500円 [1]", [passage(text)])
    assert text[citation.start : citation.end] == citation.quote == "🍵のお茶は𠮷野家で500円。"
