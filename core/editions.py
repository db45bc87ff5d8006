"""Which edition of a thing a document is, and how it stands to a day and to the other editions of its family.

An *edition* takes the place of earlier ones (a price list of 2025年度, a policy v4); an *instance* of a series
(minutes, reports, mails) speaks of its own day and takes no other's place. What is unknown is None and weighs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core.dates import Period, Precision
from core.types import Language

if TYPE_CHECKING:
    from core.question_edition import QuestionEdition

_WORDS = re.compile(r"[^\W\d_]")
_FISCAL = re.compile(r"(?:年度|[上下前後]期|半期)\Z")
_NUMBER_PART = re.compile(r"[0-9]{1,6}|[a-z]")


class Standing(StrEnum):
    """How a document stands to others of its family."""

    EDITION = "edition"
    INSTANCE = "instance"


@dataclass(frozen=True, slots=True)
class DocumentEdition:
    """What is known of a document's edition.

    family: its name without what tells editions apart, the same for all of them; None: it stands alone.
    valid_from, valid_until: first and last day on which it holds, as given or found. number: `4.0`, `c`, `18`.
    period: what it covers (2025年度, July 2025). dated: the day that it speaks of or was made. name: its edition in its
    own words (`令和7年度`, `v4`). outdated: its own name calls it old. supersedes: a document id or an external id.
    """

    document_id: str = ""
    external_id: str | None = None
    collection_id: str = ""
    family: str | None = None
    standing: Standing = Standing.EDITION
    valid_from: date | None = None
    valid_until: date | None = None
    number: str | None = None
    period: Period | None = None
    dated: date | None = None
    name: str | None = None
    outdated: bool = False
    supersedes: str | None = None

    @property
    def begins(self) -> date | None:
        """First day on which it may hold: as said, else of what it covers, else the day that it was made."""
        return self.valid_from or (self.period.first if self.period else None) or self.dated

    @property
    def speaks_of(self) -> Period | None:
        """The period that it covers; of an instance also its day."""
        if self.period is not None or self.dated is None or self.standing is Standing.EDITION:
            return self.period
        return Period(self.dated, self.dated, Precision.DAY)

    def begun(self, today: date) -> bool:
        """Whether it holds already; so does one that says nothing."""
        return self.begins is None or self.begins <= today

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return self.valid_until is not None and self.valid_until < today

    def holds(self, today: date) -> bool:
        """Whether nothing that it says of itself speaks against its holding on a day."""
        return self.begun(today) and not self.expired(today) and not self.outdated


@dataclass(frozen=True, slots=True)
class EditionFit:
    """How a document's edition fits a question, in numbers for ranking.

    named: 1 it is the edition that the question names, -1 another of its family is, 0 none is named or it cannot be
    told. differs: 1 where it carries another edition than the named one. newest: 1 it is the newest of its family that
    holds today, -1 another is, 0 it stands alone or cannot be compared. expired, not_yet: 1 where its last day is over,
    or its first to come. past: 1 where the period that it covers is over. Nothing is held against the earlier editions
    where the question compares.
    """

    named: int = 0
    differs: int = 0
    newest: int = 0
    expired: int = 0
    not_yet: int = 0
    past: int = 0


def edition_fit(
    question: QuestionEdition, document: DocumentEdition, today: date, siblings: Iterable[DocumentEdition] = ()
) -> EditionFit:
    """How one document fits. siblings: the other documents of its family that the caller may read (it may be among
    them), and those that say that they supersede it.
    """
    others = [other for other in siblings if other.document_id != document.document_id]
    day = question.day or today
    own = _names(question, document, others, today)
    rivals = [_names(question, other, [document, *others], today) for other in others]
    named = 1 if own > 0 else -1 if any(rival > 0 for rival in rivals) else 0
    newest = _newest(document, others, day)
    if question.compares:  # how much something rose is told by the edition before as well
        named, newest = max(named, 0), max(newest, 0)
    return EditionFit(
        named=named,
        differs=int(own < 0),
        newest=newest,
        expired=int(document.expired(day)),
        not_yet=int(not document.begun(day)),
        past=int(document.period is not None and document.period.last < day),
    )


def edition_label(document: DocumentEdition, language: Language = Language.JAPANESE) -> str | None:
    """How an answer names the edition that it used: `2025年度版`, `v4, effective 2025-04-01`; None: nothing known."""
    japanese = language is Language.JAPANESE
    name, period, day = document.name, document.period, document.valid_from
    if name is not None and not _WORDS.search(name):
        name = None
        if period is not None and period.precision is Precision.YEAR:
            name = f"{period.first.year}年版" if japanese else str(period.first.year)
        elif period is not None and period.precision is Precision.MONTH:
            name = f"{period.first.year}年{period.first.month}月" if japanese else f"{period.first:%Y-%m}"
    elif name is not None and japanese and document.standing is Standing.EDITION and _FISCAL.search(name):
        name = f"{name}版"
    if name is None and day is None:
        return document.dated.isoformat() if document.dated else None
    # The first day of what the name says already is no news.
    known = name is not None and period is not None and period.first == day
    when = (
        "" if day is None or known else f"{day.year}年{day.month}月{day.day}日から" if japanese else f"effective {day}"
    )
    return ("、" if japanese else ", ").join(part for part in (name and name.replace("_", " "), when) if part) or None


def is_newer(one: DocumentEdition, other: DocumentEdition) -> bool | None:
    """Whether one edition takes another's place: by what it says, by its first day, by its number. None: unknown."""
    if _supersedes(one, other) or _supersedes(other, one):
        return _supersedes(one, other)
    if one.outdated != other.outdated:
        return other.outdated
    if one.begins and other.begins and one.begins != other.begins:
        return one.begins > other.begins
    if one.number and other.number and number_key(one.number) != number_key(other.number):
        return number_key(one.number) > number_key(other.number)
    return None


def number_key(number: str) -> tuple[int, ...]:
    """What edition numbers are compared by: `4` equals `4.0`, `10` follows `9`, `c` follows `b`."""
    parts = [int(part) if part.isdigit() else ord(part) - 96 for part in _NUMBER_PART.findall(number.lower())]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def edition_from(
    facts: Mapping[str, Any] | None, *, valid_from: date | None, valid_until: date | None, supersedes: str | None
) -> DocumentEdition:
    """An edition from a document's columns; `facts` is its JSON, as `facts_of` makes it."""
    facts = facts or {}
    period = facts.get("period")
    return DocumentEdition(
        family=facts.get("family"),
        standing=Standing(facts.get("standing", Standing.EDITION.value)),
        valid_from=valid_from,
        valid_until=valid_until,
        number=facts.get("number"),
        period=Period(date.fromisoformat(period[0]), date.fromisoformat(period[1]), Precision(period[2]))
        if period
        else None,
        dated=date.fromisoformat(facts["dated"]) if facts.get("dated") else None,
        name=facts.get("name"),
        outdated=bool(facts.get("outdated")),
        supersedes=supersedes,
    )


def facts_of(edition: DocumentEdition) -> dict[str, Any]:
    """JSON of what is found and cannot be given; unknown facts are left out."""
    period = edition.period
    facts: dict[str, Any] = {
        "family": edition.family,
        "standing": edition.standing.value,
        "number": edition.number,
        "period": [period.first.isoformat(), period.last.isoformat(), period.precision.value] if period else None,
        "dated": edition.dated.isoformat() if edition.dated else None,
        "name": edition.name,
        "outdated": edition.outdated or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _supersedes(one: DocumentEdition, other: DocumentEdition) -> bool:
    return bool(one.supersedes) and one.supersedes in {other.document_id, other.external_id}


def _newest(document: DocumentEdition, others: list[DocumentEdition], day: date) -> int:
    compared = [(other, is_newer(document, other)) for other in others]
    compared = [(other, newer) for other, newer in compared if newer is not None]
    if any(not newer and other.holds(day) for other, newer in compared):
        return -1
    # One that had its end does not bring back the one before it.
    replaced = any(not newer and other.begun(day) for other, newer in compared)
    return 1 if compared and document.holds(day) and not replaced else 0


def _names(question: QuestionEdition, document: DocumentEdition, others: list[DocumentEdition], today: date) -> int:
    """1 the question names this edition, -1 it names another, 0 neither can be said."""
    answers: list[int] = []
    if question.numbers and document.number:
        answers.append(1 if any(number_key(n) == number_key(document.number) for n in question.numbers) else -1)
    if question.previous:
        answers.append(_is_previous(document, others, today))
    if question.day is not None:
        # What held on a day: the newest of then.
        holds = document.holds(question.day) and _newest(document, others, question.day) >= 0
        if document.begins is not None or document.valid_until is not None:
            answers.append(1 if holds else -1)
    for asked in question.periods:
        answers.append(_in_period(asked, document, others))
    for month, day in question.months:
        spoken = document.speaks_of
        if spoken is not None and spoken.precision in {Precision.DAY, Precision.MONTH}:
            right = spoken.first.month == month and (
                day is None or spoken.first.day == day or spoken.first != spoken.last
            )
            answers.append(1 if right else -1)
    if not answers:
        return 0
    return 1 if 1 in answers else min(answers)


def _in_period(asked: Period, document: DocumentEdition, others: list[DocumentEdition]) -> int:
    spoken = document.speaks_of
    if spoken is not None:
        same_year = {asked.precision, spoken.precision} == {Precision.YEAR, Precision.FISCAL_YEAR} and (
            asked.first.year == spoken.first.year
        )
        return 1 if same_year or asked.covers(spoken) or spoken.covers(asked) else -1
    if document.begins is None or document.standing is Standing.INSTANCE:
        return 0
    # A rule of April 2025 held in 2026 too, where no later one took its place and it had not ended.
    held = document.begins <= asked.last and (document.valid_until is None or document.valid_until >= asked.first)
    return 1 if held and _newest(document, others, asked.last) >= 0 else -1


def _is_previous(document: DocumentEdition, others: list[DocumentEdition], today: date) -> int:
    """Whether only the one that holds today is newer. Of a series: whether it is the newest before today."""
    if not others:
        return 0
    newer = [other for other in others if other.begun(today) and is_newer(other, document)]
    if document.standing is Standing.INSTANCE:
        return 0 if document.begins is None else 1 if not newer and document.begins < today else -1
    return 1 if newer and not any(is_newer(one, other) for one in newer for other in newer) else -1
