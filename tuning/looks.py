"""How many candidates of a family have looked at the held-out rows of a run: what they spend of the chance of error."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.tables.datasets import DatasetRow
from core.tables.lineage import RunRow
from core.tables.tuning import TuningRun

SAME_ROWS = 0.5
"""Share of a run's held-out rows that an earlier run must have held out too, to count as a look at the same."""
_MOST_RUNS = 200


def look_of(session: Session, run_id: str) -> int:
    """Number of the look that a run's gate is, from 1: the rejected versions of its family since the last that passed.

    A version that passed answers the question that was asked, and the next asks a new one. A rejected version counts if
    it was judged on at least half of the same held-out rows, by content; fresh rows start anew.
    """
    run = session.get_one(TuningRun, run_id)
    held_out = _held_out(session, run_id)
    earlier = session.scalars(
        select(TuningRun)
        .where(TuningRun.family_id == run.family_id, TuningRun.id != run_id)
        .where(TuningRun.created_at <= run.created_at, TuningRun.gate_report.is_not(None))
        .order_by(TuningRun.created_at.desc(), TuningRun.id.desc())
        .limit(_MOST_RUNS)
    )
    look = 1
    for one in earlier:
        if one.gate_report is None:  # JSON null is not SQL's
            continue
        if one.gate_report.get("passed"):
            break
        shared = len(held_out & _held_out(session, one.id))
        look += bool(held_out) and shared >= SAME_ROWS * len(held_out)
    return look


def _held_out(session: Session, run_id: str) -> set[str]:
    return set(
        session.scalars(
            select(DatasetRow.content_sha256)
            .join(RunRow, RunRow.row_id == DatasetRow.id)
            .where(RunRow.run_id == run_id, RunRow.part == "held_out")
        )
    )
