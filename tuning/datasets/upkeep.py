"""What may be changed of a training set after it was made: its family, whether it is in force, whether it exists.

Rows never change. A set is deleted with its text, but what a run saw stays seen: of such rows only identity and sources
are kept, so that the versions which learnt from a document or a feedback can still be named.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, exists, select, update

from core.access import Principal
from core.audit import record
from core.database import WriteSession
from core.errors import Conflict
from core.tables.base import utc_now
from core.tables.datasets import Dataset, DatasetRow
from core.tables.jobs import Job
from core.tables.lineage import RunRow
from core.tables.tuning import TuningRun
from core.types import JobStatus

_RUNNING = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)


def change(
    session: WriteSession,
    principal: Principal,
    dataset: Dataset,
    *,
    family: str | None,
    retired: bool | None,
    reason: str | None,
    request_id: str | None,
) -> None:
    """Move a set to another family, take it out of force or back into it; None leaves a thing as it is."""
    detail: dict[str, Any] = {}
    if family is not None and family != dataset.family:
        detail["family"] = {"from": dataset.family, "to": family}
        dataset.family = family
    if retired is not None and retired != (dataset.retired_at is not None):
        detail |= {"retired": retired, "reason": reason}
        dataset.retired_at = utc_now() if retired else None
        dataset.retired_reason = (reason or None) if retired else None
    if detail:
        _record(session, principal, dataset, "dataset.change", detail, request_id)


def remove(session: WriteSession, principal: Principal, dataset: Dataset, request_id: str | None) -> str | None:
    """Delete a set and its rows; returns the digest of its file, to be dropped after the commit.

    Raises:
        Conflict: `dataset_in_use`: a run that has not ended takes it; cancel that first.
    """
    _refuse_in_use(session, dataset)
    detail = {"name": dataset.name, "rows": dataset.row_count, "content": dataset.content_sha256}
    source = dataset.source_sha256
    was_seen = exists().where(RunRow.row_id == DatasetRow.id)
    session.execute(
        delete(DatasetRow).where(DatasetRow.dataset_id == dataset.id, ~was_seen),
        execution_options={"synchronize_session": False},
    )
    now = utc_now()
    emptied = session.execute(
        update(DatasetRow)
        .where(DatasetRow.dataset_id == dataset.id)
        .values(content={}, lineage={}, retired_at=now, retired_reason="the set was deleted"),
        execution_options={"synchronize_session": False},
    ).rowcount  # type: ignore[attr-defined]
    _record(session, principal, dataset, "dataset.delete", {**detail, "seen_rows_kept_empty": emptied}, request_id)
    if emptied:
        dataset.deleted_at = dataset.retired_at = now
        dataset.name, dataset.report, dataset.quality = "", {}, None
        dataset.row_count, dataset.source_sha256 = 0, None
        dataset.content_sha256 = f"deleted:{dataset.id}"  # the same rows may be uploaded again
    else:
        session.delete(dataset)
    session.flush()
    return source


def _refuse_in_use(session: WriteSession, dataset: Dataset) -> None:
    runs = session.execute(
        select(TuningRun.id, TuningRun.dataset_ids)
        .join(Job, Job.id == TuningRun.job_id)
        .where(TuningRun.tenant_id == dataset.tenant_id, Job.status.in_(_RUNNING))
    )
    for run_id, dataset_ids in runs:
        if dataset.id in dataset_ids:
            raise Conflict(
                f"run '{run_id}' takes dataset '{dataset.id}' and has not ended",
                code="dataset_in_use",
                extra={"run_id": run_id},
            )


def _record(
    session: WriteSession,
    principal: Principal,
    dataset: Dataset,
    action: str,
    detail: dict[str, Any],
    request_id: str | None,
) -> None:
    record(
        session, tenant_id=dataset.tenant_id, actor=principal.actor, action=action, object_id=dataset.id, detail=detail,
        request_id=request_id,
    )  # fmt: skip
