"""What questions ask for, how documents fit, and how an answer names the edition that it used."""

from __future__ import annotations

import time
from datetime import date

import pytest

from core.dates import fiscal_year, month_of
from core.editions import (
    DocumentEdition,
    EditionFit,
    Standing,
    edition_fit,
    edition_from,
    edition_label,
    facts_of,
    is_newer,
)
from core.question_edition import QuestionEdition, question_edition
from core.types import Language

TODAY = date(2026, 7, 15)


@pytest.mark.parametrize(
    ("question", "first", "last"),
    [
        ("2025年度の運賃表では", "2025-04-01", "2026-03-31"),
        ("令和７年度の使用料", "2025-04-01", "2026-03-31"),
        ("昨年度の売上", "2025-04-01", "2026-03-31"),
        ("今年度の予算", "2026-04-01", "2027-03-31"),
        ("去年の夏", "2025-01-01", "2025-12-31"),
        ("先月の会議", "2026-06-01", "2026-06-30"),
        ("last year's rates", "2025-01-01", "2025-12-31"),
        ("the last fiscal year", "2025-04-01", "2026-03-31"),
        ("the 2024 freight price list", "2024-01-01", "2024-12-31"),
        ("what changed in 2024?", "2024-01-01", "2024-12-31"),
    ],
)
def test_a_question_names_a_period(question: str, first: str, last: str) -> None:
    periods = question_edition(question, TODAY).periods
    assert [(p.first.isoformat(), p.last.isoformat()) for p in periods] == [(first, last)]


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        ("第3版では", ("3",)),
        ("in v2.1", ("2.1",)),
        ("version 3 of the policy", ("3",)),
        ("Rev.Cの寸法", ("c",)),
        ("DM-30の重さ", ()),
    ],
)
def test_a_question_names_a_number(question: str, numbers: tuple[str, ...]) -> None:
    assert question_edition(question, TODAY).numbers == numbers


@pytest.mark.parametrize(
    "question", ["今いくら", "現在の担当者", "最新の単価", "the current price", "which VPN do we use now?"]
)
def test_a_question_asks_for_now(question: str) -> None:
    asked = question_edition(question, TODAY)
    assert asked.now and not asked.names_one


@pytest.mark.parametrize(
    "question",
    [
        "今後の予定",
        "今回の会議",
        "operating current of the SX",
        "measure DC current?",
        "2000個の単価",
        "3か月",
        "May I?",
    ],
)
def test_a_question_says_nothing(question: str) -> None:
    assert question_edition(question, TODAY) == QuestionEdition()


def test_months_without_a_year_and_days_of_then() -> None:
    assert question_edition("6月の会議で", TODAY).months == ((6, None),)
    assert question_edition("the week of 21 July", TODAY).months == ((7, 21),)
    assert question_edition("2024年4月時点の料金", TODAY) == QuestionEdition(day=date(2024, 4, 30))
    assert question_edition("as of 2024", TODAY) == QuestionEdition(day=date(2024, 12, 31))
    assert question_edition("as of July 2026", TODAY).day == TODAY
    assert question_edition("前回の会議", TODAY).previous and question_edition("the previous version", TODAY).previous


@pytest.mark.parametrize("piece", ["2024年 ", "version 1.", "in the ", "6月", "the 2024 a-", "今", "第3"])
def test_reading_a_long_question_takes_no_longer(piece: str) -> None:
    began = time.perf_counter()
    question_edition(piece * 50_000, TODAY)
    assert time.perf_counter() - began < 2


def edition(key: str, **facts: object) -> DocumentEdition:
    return DocumentEdition(document_id=key, family="運賃表", **facts)  # type: ignore[arg-type]


def fits(question: str, documents: list[DocumentEdition], today: date = TODAY) -> dict[str, EditionFit]:
    asked = question_edition(question, today)
    return {one.document_id: edition_fit(asked, one, today, documents) for one in documents}


FISCAL = [
    edition("2024", valid_from=date(2024, 4, 1), period=fiscal_year(2024), name="2024年度"),
    edition("2025", valid_from=date(2025, 4, 1), period=fiscal_year(2025), name="2025年度"),
    edition("2026", valid_from=date(2026, 4, 1), period=fiscal_year(2026), name="2026年度"),
]


def test_now_prefers_the_newest_that_has_begun() -> None:
    assert {key: fit.newest for key, fit in fits("今の運賃は", FISCAL).items()} == {"2024": -1, "2025": -1, "2026": 1}
    early = fits("今の運賃は", FISCAL, date(2026, 3, 31))
    assert {key: (fit.newest, fit.not_yet) for key, fit in early.items()} == {
        "2024": (-1, 0),
        "2025": (1, 0),
        "2026": (0, 1),
    }


@pytest.mark.parametrize(
    "question",
    [
        "2025年度の運賃",
        "令和7年度の運賃",
        "昨年度の運賃",
        "2025年10月時点の運賃",
        "前の版の運賃",
        "2025年12月3日の運賃",
    ],
)
def test_a_named_edition_is_the_one(question: str) -> None:
    assert {key: fit.named for key, fit in fits(question, FISCAL).items()} == {"2024": -1, "2025": 1, "2026": -1}


def test_no_edition_is_blamed_where_none_is_the_named_one() -> None:
    fit = fits("2019年度の運賃", FISCAL)["2026"]
    assert (fit.named, fit.differs) == (0, 1)


def test_numbers_compare_as_numbers() -> None:
    editions = [edition("a", number="9"), edition("b", number="10.0")]
    assert is_newer(editions[1], editions[0])
    assert {key: fit.named for key, fit in fits("第10版", editions).items()} == {"a": -1, "b": 1}
    assert is_newer(edition("x", number="c"), edition("y", number="b"))


def test_an_expired_edition_is_not_the_newest() -> None:
    editions = [
        edition("a", valid_from=date(2024, 4, 1)),
        edition("b", valid_from=date(2025, 4, 1), valid_until=date(2026, 3, 31)),
    ]
    found = fits("今の運賃", editions)
    assert (found["b"].expired, found["b"].newest, found["a"].newest) == (1, 0, 0)


def test_what_supersedes_is_newer_whatever_its_days_say() -> None:
    old = DocumentEdition("a", "ext-a", family="旧称", valid_from=date(2026, 5, 1))
    new = DocumentEdition("b", family="新称", valid_from=date(2026, 4, 1), supersedes="ext-a")
    asked = question_edition("今", TODAY)
    assert edition_fit(asked, old, TODAY, [new]).newest == -1
    assert edition_fit(asked, new, TODAY, [old]).newest == 1


def test_a_comparison_holds_nothing_against_the_earlier_edition() -> None:
    for question in ("運賃は2026年度にいくら上がった？", "how much did it rise in FY2026?"):
        told = {key: (fit.named, fit.newest) for key, fit in fits(question, FISCAL).items()}
        assert told == {"2024": (0, 0), "2025": (0, 0), "2026": (1, 1)}
    versions = [edition("a", number="3"), edition("b", number="4"), edition("c", number="5")]
    named = {key: fit.named for key, fit in fits("the change between versions 3 and 4", versions).items()}
    assert named == {"a": 1, "b": 1, "c": 0}
    years = question_edition("the rise from 2024 to 2025", TODAY).periods
    assert [period.first.year for period in years] == [2024, 2025]


def test_instances_of_a_series_are_told_apart_by_their_day() -> None:
    minutes = [
        edition("june", standing=Standing.INSTANCE, dated=date(2026, 6, 11)),
        edition("july", standing=Standing.INSTANCE, dated=date(2026, 7, 9)),
    ]
    assert {key: fit.named for key, fit in fits("6月の会議", minutes).items()} == {"june": 1, "july": -1}
    assert {key: fit.named for key, fit in fits("2026年7月9日の会議", minutes).items()} == {"june": -1, "july": 1}
    assert {key: fit.named for key, fit in fits("前回の会議", minutes).items()} == {"june": -1, "july": 1}


def test_an_edition_without_facts_weighs_nothing() -> None:
    alone = edition("a")
    for question in ("2025年度の運賃", "in v3", "今いくら", "運賃", "6月の運賃", "前の版"):
        assert edition_fit(question_edition(question, TODAY), alone, TODAY, [alone]) == EditionFit()


def test_a_rule_holds_until_a_newer_one_begins() -> None:
    editions = [edition("a", valid_from=date(2023, 3, 1)), edition("b", valid_from=date(2025, 2, 1))]
    assert {key: fit.named for key, fit in fits("2024年6月の手当", editions).items()} == {"a": 1, "b": -1}


@pytest.mark.parametrize(
    ("document", "japanese", "english"),
    [
        (FISCAL[0], "2024年度版", "2024年度"),
        (edition("a", name="v4", valid_from=date(2025, 2, 1)), "v4、2025年2月1日から", "v4, effective 2025-02-01"),
        (edition("a", name="202506", period=month_of(2025, 6)), "2025年6月", "2025-06"),
        (edition("a", dated=date(2025, 6, 12)), "2025-06-12", "2025-06-12"),
        (edition("a"), None, None),
    ],
)
def test_labels(document: DocumentEdition, japanese: str | None, english: str | None) -> None:
    assert edition_label(document) == japanese
    assert edition_label(document, Language.ENGLISH) == english


def test_facts_survive_the_database() -> None:
    whole = DocumentEdition(
        family="運賃表", number="3", period=fiscal_year(2025), dated=date(2025, 4, 1), name="第3版", outdated=True,
        valid_from=date(2025, 4, 1), valid_until=date(2026, 3, 31), supersedes="doc_1",
    )  # fmt: skip
    assert (
        edition_from(facts_of(whole), valid_from=whole.valid_from, valid_until=whole.valid_until, supersedes="doc_1")
        == whole
    )
    assert edition_from(None, valid_from=None, valid_until=None, supersedes=None) == DocumentEdition()
