"""Has what people get from a family become worse? The last days against as many days before them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.tables.answers import Answer, Feedback

MIN_ANSWERS = 50
"""In each of the two stretches of time; fewer say nothing about a share of a few per cent."""


@dataclass(frozen=True, slots=True)
class Drift:
    """`rise` is that of the figure that rose most; None where there were too few answers."""

    answers_before: int
    answers_now: int
    figure: str | None = None
    before: float | None = None
    now: float | None = None
    rise: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As shown in a schedule's outcome."""
        return {"drift": asdict(self)}


def measure_drift(session: Session, family_id: str | None, now: datetime, days: int) -> Drift:
    """Shares of down-votes, refusals and uncited answers of a family, over the last days and over those before."""
    if family_id is None:
        return Drift(0, 0)
    length = timedelta(days=days)
    before = _shares(session, family_id, now - 2 * length, now - length)
    recent = _shares(session, family_id, now - length, now)
    if before is None or recent is None or min(before[0], recent[0]) < MIN_ANSWERS:
        return Drift(before[0] if before else 0, recent[0] if recent else 0)
    worst = max(recent[1], key=lambda name: recent[1][name] - before[1][name])
    old, new = before[1][worst], recent[1][worst]
    return Drift(before[0], recent[0], worst, round(old, 4), round(new, 4), round(new - old, 4))


def _shares(session: Session, family_id: str, start: datetime, end: datetime) -> tuple[int, dict[str, float]] | None:
    within = (Answer.family_id == family_id, Answer.created_at > start, Answer.created_at <= end)
    rows = session.execute(select(Answer.refused, Answer.citations).where(*within)).all()
    if not rows:
        return None
    down = session.scalar(
        select(func.count(func.distinct(Feedback.answer_id)))
        .join(Answer, Answer.id == Feedback.answer_id)
        .where(*within, Feedback.rating == "down")
    )
    refused = sum(bool(refused) for refused, _ in rows)
    uncited = sum(not refused and not any(one.get("verified") for one in citations) for refused, citations in rows)
    total = len(rows)
    return total, {"down_vote": (down or 0) / total, "refusal": refused / total, "uncited": uncited / total}
