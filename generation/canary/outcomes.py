"""What happened in the conversations of a trial, read from answers, feedback and failures.

A conversation counts once, a fixed time after its first answer, with what had happened by then. Counting it earlier if
something bad happens would make the moment depend on the outcome, and the promise of the sequential test with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, func, select

from core.database import ReadSession, WriteSession
from core.tables.answers import Answer, Feedback
from core.tables.canary import AnswerFailure
from generation.canary.policy import Figure

_IDS_AT_ONCE = 500
_REFERENCE_ANSWERS = 500
MIN_REFERENCE_ANSWERS = 20
SLOW_QUANTILE = 0.9


_UNIT: ColumnElement[str] = func.coalesce(
    Answer.conversation_id, Answer.provenance[("trial", "unit")].as_string(), Answer.id
)
_UNIT_OF_FAILURE: ColumnElement[str] = func.coalesce(AnswerFailure.conversation_id, AnswerFailure.id)


@dataclass(slots=True)
class Conversation:
    """What was drawn once, a conversation, a user or a single request, and the events in it."""

    arm: str
    first_at: datetime
    events: set[Figure] = field(default_factory=set)


def settled_conversations(
    session: ReadSession | WriteSession,
    family_id: str,
    *,
    since: datetime,
    after: datetime,
    until: datetime,
    settle: timedelta,
    slow_after_ms: float | None,
) -> list[Conversation]:
    """Conversations whose first answer since the start of the trial falls in (after, until], each with its events.

    since: start of the trial. Events later than `settle` after the first answer are left out.
    """
    found: dict[str, Conversation] = {}
    for table, unit in ((Answer, _UNIT), (AnswerFailure, _UNIT_OF_FAILURE)):
        rows = session.execute(
            select(unit, func.min(table.arm), func.min(table.created_at))
            .where(table.family_id == family_id, table.created_at >= since, table.arm.is_not(None))
            .where(table.created_at <= until + settle)
            .group_by(unit)
        )
        for name, arm, first_at in rows:
            assert arm is not None
            known = found.get(name)
            if known is None or first_at < known.first_at:
                found[name] = Conversation(arm, first_at)
    found = {name: one for name, one in found.items() if after < one.first_at <= until}
    for names in _chunks(sorted(found), _IDS_AT_ONCE):
        first = min(found[name].first_at for name in names)
        _read_answers(session, family_id, names, found, max(since, first), settle, slow_after_ms)
    return list(found.values())


def _read_answers(
    session: ReadSession | WriteSession,
    family_id: str,
    names: Sequence[str],
    found: dict[str, Conversation],
    since: datetime,
    settle: timedelta,
    slow_after_ms: float | None,
) -> None:
    answers = session.execute(
        select(
            Answer.id,
            _UNIT,
            Answer.created_at,
            Answer.refused,
            Answer.citations,
            Answer.timings_ms,
            Answer.provenance,
        ).where(
            Answer.family_id == family_id,
            Answer.created_at >= since,
            Answer.arm.is_not(None),
            _UNIT.in_(names),
        )
    ).all()
    owner: dict[str, str] = {}
    for answer_id, name, created_at, refused, citations, timings_ms, provenance in answers:
        one = found[name]
        if created_at > one.first_at + settle:
            continue
        owner[answer_id] = name
        # Where a line was given in place of what the adapter wrote, the adapter is judged by what it wrote.
        own = provenance.get("model")
        supported = own["supported"] if own else any(citation.get("verified") for citation in citations)
        if own["refused"] if own else refused:
            one.events.add(Figure.REFUSAL)
        elif not supported:
            one.events.add(Figure.UNCITED)
        if slow_after_ms is not None and timings_ms.get("total", 0.0) > slow_after_ms:
            one.events.add(Figure.SLOW)
    for ids in _chunks(sorted(owner), _IDS_AT_ONCE):
        votes = session.execute(
            select(Feedback.answer_id, Feedback.created_at).where(
                Feedback.answer_id.in_(ids), Feedback.rating == "down"
            )
        )
        for answer_id, created_at in votes:
            one = found[owner[answer_id]]
            if created_at <= one.first_at + settle:
                one.events.add(Figure.DOWN_VOTE)
    failures = session.execute(
        select(_UNIT_OF_FAILURE, AnswerFailure.created_at).where(
            AnswerFailure.family_id == family_id,
            AnswerFailure.created_at >= since,
            AnswerFailure.arm.is_not(None),
            _UNIT_OF_FAILURE.in_(names),
        )
    )
    for name, created_at in failures:
        if created_at <= found[name].first_at + settle:
            found[name].events.add(Figure.ERROR)


def add_up(counts: dict[str, Any], conversations: Iterable[Conversation]) -> dict[str, Any]:
    """`counts` of a trial with more conversations in them, as a new value."""
    total: dict[str, int] = defaultdict(int, counts.get("conversations", {}))
    events: dict[str, dict[str, int]] = {
        figure.value: defaultdict(int, counts.get("figures", {}).get(figure.value, {})) for figure in Figure
    }
    last: dict[str, str] = dict(counts.get("last_at", {}))
    for one in conversations:
        total[one.arm] += 1
        last[one.arm] = max(last.get(one.arm, ""), one.first_at.isoformat())
        for figure in one.events:
            events[figure.value][one.arm] += 1
    return {
        "conversations": dict(total),
        "figures": {name: dict(arms) for name, arms in events.items()},
        "last_at": last,
    }


def slow_limit_ms(session: ReadSession | WriteSession, family_id: str, before: datetime) -> float | None:
    """The time that nine in ten of the family's last answers before a moment took less than; None after too few."""
    times = sorted(
        timings["total"]
        for timings in session.scalars(
            select(Answer.timings_ms)
            .where(Answer.family_id == family_id, Answer.created_at < before)
            .order_by(Answer.created_at.desc())
            .limit(_REFERENCE_ANSWERS)
        )
        if "total" in timings
    )
    if len(times) < MIN_REFERENCE_ANSWERS:
        return None
    return float(times[min(len(times) - 1, int(len(times) * SLOW_QUANTILE))])


def _chunks(items: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (items[start : start + size] for start in range(0, len(items), size))
