"""The Celery application: JSON only, no result backend, tasks that take ids. Results live in the database."""

from __future__ import annotations

from celery import Celery

from core.queue import Queue, broker_options
from core.settings import Settings
from workers import evaluation_tasks, ingest_tasks, maintenance_tasks, tuning_tasks


def create_celery(settings: Settings, broker_url: str) -> Celery:
    """Make the application with all tasks; nothing connects yet.

    broker_url: `redis://host/0` or `redis+socket:///path/to.sock`.
    """
    app = Celery("tsumugi", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        result_backend=None,
        task_default_queue=Queue.MAINTENANCE.value,
        task_default_priority=5,
        # One message a thread: a worker that dies takes no waiting work with it.
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        # A lost connection is no reason to stop: the lease, not the message, says who works on what.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=5,
        broker_transport_options=broker_options(settings.broker.visibility_timeout_s),
        enable_utc=True,
    )
    ingest_tasks.register(app)
    tuning_tasks.register(app)
    evaluation_tasks.register(app)
    maintenance_tasks.register(app)
    return app
