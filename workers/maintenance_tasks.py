"""What beat does, as tasks, for an operator or a cron that wants it now. Beat itself needs no broker."""

from __future__ import annotations

from celery import Celery

from core.queue import Task
from workers.context import get_context


def register(app: Celery) -> None:
    """Add the tasks to an application."""

    @app.task(name=Task.SWEEP.value, shared=False)  # type: ignore[untyped-decorator]
    def sweep() -> None:
        get_context().jobs.sweep()

    @app.task(name=Task.SCHEDULES.value, shared=False)  # type: ignore[untyped-decorator]
    def schedules() -> None:
        context = get_context()
        if context.schedules is not None:
            context.schedules.run_due()
