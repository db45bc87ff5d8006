"""Erasures; and what beat does, as tasks, for an operator or a cron that wants it now. Beat itself needs no broker."""

from __future__ import annotations

from celery import Celery

from core.processes import yield_to_others
from core.queue import Task
from workers.base import run_job
from workers.context import get_context


def register(app: Celery) -> None:
    """Add the tasks to an application."""

    @app.task(name=Task.ERASURE_RUN.value, acks_late=False, shared=False)  # type: ignore[untyped-decorator]
    def erase(job_id: str) -> None:
        yield_to_others()
        context = get_context()
        assert context.erasure_runner is not None
        run_job(context.jobs, job_id, context.erasure_runner.run)

    @app.task(name=Task.SWEEP.value, shared=False)  # type: ignore[untyped-decorator]
    def sweep() -> None:
        get_context().jobs.sweep()

    @app.task(name=Task.SCHEDULES.value, shared=False)  # type: ignore[untyped-decorator]
    def schedules() -> None:
        context = get_context()
        if context.schedules is not None:
            context.schedules.run_due()
