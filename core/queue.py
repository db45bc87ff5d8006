"""Names of queues and tasks, and the Celery sender. Celery is imported when the first message goes out, not before.

A message is only a hint that a job may be worked on: losing one delays the job until the sweeper looks, sending one
twice does nothing, because a worker must still claim the row.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from core.errors import Unavailable
from core.ports import TaskQueue
from core.types import JobKind

if TYPE_CHECKING:
    from celery import Celery

PRIORITY_STEPS = (0, 3, 6, 9)
"""Redis has no priorities: kombu keeps one list per step, 0 is served first."""

PRIORITY_SEPARATOR = "\x06\x16"
"""Between queue name and step in the key of such a list; step 0 uses the bare name (kombu/transport/redis.py)."""


class Queue(StrEnum):
    """Queues. INGEST and MAINTENANCE are consumed where the index lives, TUNING by the training worker, EVALUATION
    where questions are answered.
    """

    INGEST = "ingest"
    TUNING = "tuning"
    MAINTENANCE = "maintenance"
    EVALUATION = "evaluation"


class Task(StrEnum):
    """Tasks, as named in messages. The job tasks take one argument, `job_id`; the maintenance ones none."""

    INGEST_DOCUMENT = "ingest.document"
    DELETE_DOCUMENT = "delete.document"
    DELETE_COLLECTION = "delete.collection"
    DOCUMENT_ACCESS = "document.access"
    TUNING_PREPARE = "tuning.prepare"
    TUNING_TRAIN = "tuning.train"
    INDEX_BUILD = "index.build"
    DATASET_BUILD = "dataset.build"
    EVALUATION_RUN = "evaluation.run"
    ERASURE_RUN = "erasure.run"
    JUDGE_CALIBRATE = "judge.calibrate"
    SWEEP = "maintenance.sweep"
    SCHEDULES = "maintenance.schedules"


QUEUE_OF_TASK: dict[Task, Queue] = {
    Task.INGEST_DOCUMENT: Queue.INGEST,
    Task.DELETE_DOCUMENT: Queue.INGEST,
    Task.DELETE_COLLECTION: Queue.INGEST,
    Task.DOCUMENT_ACCESS: Queue.INGEST,
    # Preparing reads the index, so it runs where the index lives; not behind a backlog of documents.
    Task.TUNING_PREPARE: Queue.MAINTENANCE,
    Task.TUNING_TRAIN: Queue.TUNING,
    Task.INDEX_BUILD: Queue.MAINTENANCE,
    # It asks the index whether a question finds its passage.
    Task.DATASET_BUILD: Queue.MAINTENANCE,
    Task.EVALUATION_RUN: Queue.EVALUATION,
    # It deletes points and writes the index anew.
    Task.ERASURE_RUN: Queue.MAINTENANCE,
    # Minutes of waiting for other services; not behind a training.
    Task.JUDGE_CALIBRATE: Queue.MAINTENANCE,
    Task.SWEEP: Queue.MAINTENANCE,
    Task.SCHEDULES: Queue.MAINTENANCE,
}

FIRST_TASK_OF_KIND: dict[JobKind, Task] = {
    JobKind.INGEST: Task.INGEST_DOCUMENT,
    JobKind.DELETE: Task.DELETE_DOCUMENT,
    JobKind.ACCESS: Task.DOCUMENT_ACCESS,
    JobKind.COLLECTION: Task.DELETE_COLLECTION,
    JobKind.TUNING: Task.TUNING_PREPARE,
    JobKind.INDEX: Task.INDEX_BUILD,
    JobKind.DATASET: Task.DATASET_BUILD,
    JobKind.EVALUATION: Task.EVALUATION_RUN,
    JobKind.ERASURE: Task.ERASURE_RUN,
    JobKind.CALIBRATION: Task.JUDGE_CALIBRATE,
}


@runtime_checkable
class InspectableQueue(TaskQueue, Protocol):
    """A queue that can also be looked into, which the sweeper needs to tell a lost message from a busy worker."""

    def depth(self, queue: str) -> int:
        """Messages waiting in a queue; raises Unavailable."""
        ...

    def reset(self) -> None:
        """Drop every message; raises Unavailable."""
        ...


def broker_options(visibility_timeout_s: int) -> dict[str, Any]:
    """Transport options that senders and workers must share, or they would not see each other's messages."""
    return {
        "visibility_timeout": visibility_timeout_s,
        "priority_steps": list(PRIORITY_STEPS),
        "sep": PRIORITY_SEPARATOR,
        "queue_order_strategy": "round_robin",
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        # A message that Redis accepted but could not answer for would otherwise hold an HTTP request for ever.
        "socket_timeout": 30.0,
    }


class CeleryTaskQueue:
    """Sends task messages through Celery to Redis. Thread-safe."""

    def __init__(self, broker_url: str, *, visibility_timeout_s: int = 3600) -> None:
        self._broker_url = broker_url
        self._visibility_timeout_s = visibility_timeout_s
        self._lock = threading.Lock()
        self._app: Celery | None = None

    def send(self, task: str, arguments: Mapping[str, str | int], queue: str, priority: int) -> None:
        """Publish one task message.

        Raises:
            Unavailable: the broker does not answer; the sweeper sends it later.
        """
        try:
            self._celery().send_task(
                task, kwargs=dict(arguments), queue=queue, priority=priority, retry=False, ignore_result=True
            )
        except _broker_errors() as error:
            raise Unavailable(f"the broker took no message for '{task}': {error}", code="broker_unavailable") from error

    def depth(self, queue: str) -> int:
        """Messages waiting in a queue, those in the hands of workers not counted.

        Raises:
            Unavailable: the broker does not answer.
        """
        keys = list_keys(queue)
        return sum(int(length) for length in self._redis(lambda client: [client.llen(key) for key in keys]))

    def reset(self) -> None:
        """Drop every message, delivered or not. Only for a start at which no worker can be alive.

        What a dead worker had taken stays hidden in Redis until the visibility timeout, an hour by default; after a
        crash it is quicker to drop all hints and to send them anew from the database.

        Raises:
            Unavailable: the broker does not answer.
        """
        keys = [key for queue in Queue for key in list_keys(queue)]
        self._redis(lambda client: client.delete(*keys, "unacked", "unacked_index", "unacked_mutex"))

    def ping(self) -> None:
        """Raise Unavailable unless the broker answers."""
        self._redis(lambda client: client.ping())

    def close(self) -> None:
        """Give back connections."""
        with self._lock:
            app, self._app = self._app, None
        if app is not None:
            app.close()

    def _redis(self, call: Any) -> Any:
        try:
            with self._celery().pool.acquire(block=True, timeout=10) as connection:
                return call(connection.default_channel.client)
        except _broker_errors() as error:
            raise Unavailable(f"the broker does not answer: {error}", code="broker_unavailable") from error

    def _celery(self) -> Celery:
        with self._lock:
            if self._app is None:
                from celery import Celery

                app = Celery("tsumugi-sender", broker=self._broker_url, set_as_current=False)
                app.conf.update(
                    task_serializer="json",
                    accept_content=["json"],
                    task_ignore_result=True,
                    broker_transport_options={
                        **broker_options(self._visibility_timeout_s),
                        # Kombu would try for six seconds, inside an HTTP request. We have an outbox: one try will do.
                        "max_retries": 1,
                        "interval_start": 0,
                        "interval_step": 0,
                        "interval_max": 0,
                        "socket_connect_timeout": 2.0,
                    },
                    broker_connection_timeout=2,
                    task_create_missing_queues=True,
                )
                self._app = app
            return self._app


def _broker_errors() -> tuple[type[Exception], ...]:
    """What a broker that is away, full (`OOM command not allowed`) or overrun shows as."""
    from kombu.exceptions import KombuError
    from redis.exceptions import RedisError

    return (KombuError, RedisError, OSError)


def list_keys(queue: str) -> list[str]:
    """Redis keys of the lists that make up a queue."""
    return [queue if step == 0 else f"{queue}{PRIORITY_SEPARATOR}{step}" for step in PRIORITY_STEPS]
