"""Tasks of evaluations, in a process that answers. Acknowledged early: a run may outlast the visibility timeout."""

from __future__ import annotations

from functools import partial

from celery import Celery

from core.queue import Task
from workers.base import run_job
from workers.context import get_context


def register(app: Celery) -> None:
    """Add the tasks to an application."""

    @app.task(name=Task.EVALUATION_RUN.value, acks_late=False, shared=False)  # type: ignore[untyped-decorator]
    def run_evaluation(job_id: str) -> None:
        context = get_context()
        assert context.evaluation_runner is not None
        work = partial(run_job, context.jobs, job_id, context.evaluation_runner.run)
        if context.desk is None:
            work()
        else:
            context.desk.offer(job_id, work)
