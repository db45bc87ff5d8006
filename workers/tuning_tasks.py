"""Tasks of the training side. Acknowledged early: it outlasts Redis' visibility timeout, and would come twice."""

from __future__ import annotations

from celery import Celery

from core.processes import yield_to_others
from core.queue import Task
from workers.base import run_job
from workers.context import get_context


def register(app: Celery) -> None:
    """Add the tasks to an application."""

    @app.task(name=Task.TUNING_PREPARE.value, acks_late=False, shared=False)  # type: ignore[untyped-decorator]
    def prepare(job_id: str) -> None:
        yield_to_others()
        context = get_context()
        assert context.tuning_runner is not None
        run_job(context.jobs, job_id, context.tuning_runner.prepare)

    @app.task(name=Task.TUNING_TRAIN.value, acks_late=False, shared=False)  # type: ignore[untyped-decorator]
    def train(job_id: str) -> None:
        context = get_context()
        assert context.tuning_runner is not None
        run_job(context.jobs, job_id, context.tuning_runner.train)
