"""What is found of editions in names and texts, and what is left alone because it is said of something else."""

from __future__ import annotations

from datetime import date

import pytest

from core.editions import DocumentEdition, Standing
from core.types import ExtractedDocument
from ingest.editions import find_edition


def found(name: str, text: str = "本文", *, title: str | None = None, path: str | None = None) -> DocumentEdition:
    media = "message/rfc822" if name.endswith(".eml") else "text/plain"
    return find_edition(name, ExtractedDocument(text, (), media, title=title), external_id=path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("料金表_貸会議室_2023年度.xlsx", "料金表_貸会議室_2024年度.pdf"),
        ("Remote_Work_Policy_v1.docx", "Remote_Work_Policy_v2.1.docx"),
        ("使用料一覧_令和５年度.pdf", "使用料一覧_令和6年度.pdf"),
        ("運転マニュアル（第2版）.docx", "運転マニュアル(第3版).docx"),
        ("組織図_202404.pptx", "組織図_20241001.pptx"),
        ("旅費規程_2023年10月改定.docx", "旅費規程_2024年4月1日改訂版.docx"),
        ("旅費規程.docx", "旅費規程_最新版.docx"),
        ("Rates FY2023.xlsx", "Rates_FY2024 (final).xlsx"),
        ("SOP-12 Rev.A.docx", "SOP-12_Rev.B.docx"),
        ("週報_0401.docx", "週報_0401.docx"),
    ],
)
def test_editions_of_one_thing_share_a_family(one: str, other: str) -> None:
    assert found(one).family == found(other).family is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("価格表_関東支店.csv", "価格表_東北支店.csv"),
        ("DM-30_仕様書.pdf", "DM-40_仕様書.pdf"),
        ("就業規則_本則.docx", "就業規則_パート.docx"),
    ],
)
def test_different_things_do_not(one: str, other: str) -> None:
    assert found(one).family != found(other).family


def test_folders_tell_the_year_and_the_branch() -> None:
    old = found("料金表.xlsx", path="関東/2023年度/料金表.xlsx")
    new = found("料金表.xlsx", path="関東/2024年度/料金表.xlsx")
    other = found("料金表.xlsx", path="東北/2024年度/料金表.xlsx")
    assert old.family == new.family != other.family
    assert (old.valid_from, new.valid_from) == (date(2023, 4, 1), date(2024, 4, 1))
    assert found("料金表.xlsx", path="関東/旧/料金表.xlsx").outdated
    assert found("x.pdf", path="opaque-2023-id").period is None


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("運賃表\n2024年10月1日出荷分より適用", date(2024, 10, 1)),
        ("運賃表（令和６年１０月１日から適用）", date(2024, 10, 1)),
        ("運賃表\n適用日：2024/10/01", date(2024, 10, 1)),
        ("運賃表\n施行日 | 令和六年十月一日", date(2024, 10, 1)),
        ("運賃表\n主管：物流部　2024年10月改訂", date(2024, 10, 1)),
        ("運賃表\n改定 令和4年4月1日／令和5年4月1日／令和6年10月1日（第9次改定）", date(2024, 10, 1)),
        ("Freight\nEffective from 1 October 2024. All in GBP.", date(2024, 10, 1)),
        ("Freight\nVersion 2 | effective October 1, 2024 | owner: Sales", date(2024, 10, 1)),
        ("規則\n" + "第1条 本文\n" * 30 + "附則\nこの規則は、令和6年10月1日から施行する。", date(2024, 10, 1)),
        ("規則\n" + "第1条 本文\n" * 3000 + "附則\nこの規則は、令和6年10月1日から施行する。", date(2024, 10, 1)),
    ],
)
def test_first_day_is_found(text: str, day: date) -> None:
    edition = found("運賃表.docx", text)
    assert (edition.valid_from, edition.valid_until) == (day, None)


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("見本\n有効期限：2025年3月31日", date(2025, 3, 31)),
        ("見本\n令和7年3月31日まで有効", date(2025, 3, 31)),
        ("見本\n【この表は2025年3月で廃止】", date(2025, 3, 31)),
        ("Prices\nvalid until 31 March 2025", date(2025, 3, 31)),
        ("要綱\n附則\nこの要綱は、令和7年3月31日限り、その効力を失う。", date(2025, 3, 31)),
    ],
)
def test_last_day_is_found(text: str, day: date) -> None:
    assert found("単価表.docx", text).valid_until == day


def test_a_span_gives_both_days() -> None:
    edition = found("単価表.docx", "単価表\n有効期間：2024年4月1日～2025年3月31日")
    assert (edition.valid_from, edition.valid_until) == (date(2024, 4, 1), date(2025, 3, 31))


@pytest.mark.parametrize(
    "text",
    [
        "案内\n会員証は発行日から2024年10月1日まで使えます",
        "FAQ\n令和6年度までは1回300円でした。",
        "FAQ\nAPI v1 was switched off on 31 March 2024.",
        "FAQ\nThe new gateway is effective from 1 May 2024.",
        "案内\n旧料金は2024年3月で廃止",
        "案内\n新制度は2024年10月1日から適用されます",
        "規則\n" + "第1条 本文\n" * 30 + "附則\n第9条の手当は、令和6年10月支給分から適用する。",
        "契約\n有効期限：発行後45日",
        "一覧\n2024年4月1日から適用\n2024年7月1日から適用",
    ],
)
def test_what_is_said_of_something_else_gives_no_day(text: str) -> None:
    edition = found("一覧.docx", text)
    assert (edition.valid_from, edition.valid_until) == (None, None)


def test_minutes_hold_from_no_day_and_are_instances() -> None:
    text = "営業会議 議事録\n日時：2024年6月12日 10:00\n・運賃は2024年10月1日から適用する。"
    for name, day in (("会議議事録_20240612.docx", date(2024, 6, 12)), ("会議議事録.docx", date(2024, 6, 12))):
        edition = found(name, text)
        assert (edition.standing, edition.dated, edition.valid_from) == (Standing.INSTANCE, day, None)
    mail = found("price.eml", "Re: prices\nDate: Wed, 12 Jun 2024 10:00:00 +0900\nEffective from 1 October 2024")
    assert (mail.standing, mail.dated, mail.valid_from) == (Standing.INSTANCE, date(2024, 6, 12), None)


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("手順書_第3版.docx", "", "3"),
        ("手順書.docx", "手順書（第十二版）", "12"),
        ("spec.docx", "Product specification Rev.C", "c"),
        ("spec_v2.10.docx", "Version 2.9", "2.10"),
        ("仕様書.docx", "株式会社例 版数 4.2 2024年6月1日", "4.2"),
        ("notes.docx", "改定履歴\n第1版 作成\n第2版 修正", None),
        ("API_errors.html", "API v3 error reference", None),
    ],
)
def test_edition_numbers(name: str, text: str, number: str | None) -> None:
    assert found(name, text or "本文").number == number


def test_the_day_behind_a_number_dates_it() -> None:
    assert found("仕様書.docx", "株式会社例 版数 4.2 2024年6月1日").dated == date(2024, 6, 1)


def test_keys_of_front_matter_tell_the_days() -> None:
    edition = found("規程.md", "owner: 総務課\neffective_date: 2031-05-02\nvalid_until: 2032-03-31\n本文")
    assert (edition.valid_from, edition.valid_until) == (date(2031, 5, 2), date(2032, 3, 31))


def test_a_bare_year_is_no_first_day() -> None:
    edition = found("Shipping_2024.xlsx")
    assert edition.valid_from is None and edition.name == "2024"


def test_the_founding_day_is_not_the_day_of_the_edition() -> None:
    edition = found("規則.docx", "規則\n制定 昭和58年6月3日\n2024年4月1日改定")
    assert (edition.valid_from, edition.dated) == (date(2024, 4, 1), None)
