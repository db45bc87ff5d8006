"""How every job task runs: log context, lease, heartbeat, and what each way of ending does to the job."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import structlog
from sqlalchemy.exc import DBAPIError

from core.environment import environment_fault
from core.errors import Cancelled, Interrupted, LeaseLost, Postponed, TsumugiError
from core.jobs import JobLease, JobStore
from core.log import bound
from core.measures import observe_stage
from core.tracing import TRACEPARENT, span

log = structlog.stdlib.get_logger(__name__)

_PAUSES_S = (0.5, 1.0, 2.0, 5.0)


def run_job(jobs: JobStore, job_id: str, work: Callable[[JobLease], object], *, in_turn: bool = False) -> None:
    """Claim a job and do `work` on it; every error becomes a state of the job, none goes to the queue.

    in_turn: take the job of the same task whose turn it is, so that no tenant starves another. A job that cannot be
    claimed is none of our business: a message may come twice, late, or for a cancelled job.
    """
    with bound(job_id=job_id):
        lease = jobs.claim_in_turn(job_id) if in_turn else jobs.claim(job_id)
        if lease is None:
            log.debug("job.not_claimed")
            return
        observe_stage("queue_wait", lease.queued_s)
        trace = span(
            f"job {lease.task}",
            lease.arguments.get(TRACEPARENT),
            job_id=lease.job_id,
            attempt=lease.attempt,
            queued_s=round(lease.queued_s, 3),
        )
        with trace, bound(job_id=lease.job_id, kind=lease.kind.value, attempt=lease.attempt, tenant_id=lease.tenant_id):
            started = time.monotonic()
            log.info("job.started", task=lease.task, subject_id=lease.subject_id)
            try:
                with lease.running():
                    _work_and_end(lease, work)
            except LeaseLost as lost:
                # A successor owns the job. Nothing may be written any more, not even that we failed.
                log.warning("job.lease_lost", detail=lost.detail)
            log.info("job.attempt_ended", seconds=round(time.monotonic() - started, 3))


def _work_and_end(lease: JobLease, work: Callable[[JobLease], object]) -> None:
    try:
        work(lease)
    except LeaseLost:
        raise
    except Cancelled:
        lease.cancelled()
    except Interrupted:
        log.info("job.interrupted", stage=lease.stage)
        lease.release()
    except Postponed as reason:
        log.info("job.postponed", code=reason.code, detail=reason.detail)
        lease.postpone(reason)
    except Exception as error:
        fault = environment_fault(error)
        if fault is not None:
            log.warning("job.waits", code=fault.code, detail=fault.detail, stage=lease.stage)
            _when_the_database_answers(lease, lambda: lease.wait(fault))
            return
        if isinstance(error, TsumugiError):
            log.warning("job.error", code=error.code, detail=error.detail, retryable=error.retryable, stage=lease.stage)
        else:
            log.exception("job.unexpected_error", stage=lease.stage)
        lease.fail(error)
    else:
        if not lease.finished:
            lease.succeed()


def _when_the_database_answers(lease: JobLease, end: Callable[[], None]) -> None:
    """End an attempt, also one that ended because the database was away: the heartbeat goes on meanwhile.

    A job that could not say how it ended would be taken for one whose worker died, which has a budget.
    """
    for pause_s in itertools.chain(_PAUSES_S, itertools.repeat(_PAUSES_S[-1])):
        try:
            end()
        except DBAPIError as error:
            log.warning("job.end_not_written", detail=str(error.orig), pause_s=pause_s)
            if lease.sleep(pause_s):
                raise
        else:
            return
