"""A Celery worker inside this process: consumer in one thread, tasks in a pool of others, no signal handlers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import structlog
from celery import Celery
from celery.worker import WorkController, state
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

from core.queue import Queue, list_keys

log = structlog.stdlib.get_logger(__name__)

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0


class ThreadsWorker:
    """Consumes queues from within the process; starts again by itself if Celery's consumer gives up.

    At most one per process may run: Celery keeps the request to stop in a module.
    """

    def __init__(self, app: Celery, queues: Sequence[Queue], concurrency: int, name: str = "embedded") -> None:
        self._app = app
        self._queues = [queue.value for queue in queues]
        self._concurrency = concurrency
        self._name = name
        self._stopping = threading.Event()
        self.ready = threading.Event()
        """Set while the worker is connected, or has been and is on its way back."""
        self._thread = threading.Thread(target=self._run, name=f"celery-{name}", daemon=True)

    def start(self) -> None:
        """Start consuming; returns at once, connected or not."""
        state.should_stop = None
        state.should_terminate = None
        # Pool threads find the application through this; without it they look in Celery's own empty one.
        self._app.set_default()
        self._app.finalize()
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it consumes, connects, or finishes its last tasks."""
        return self._thread.is_alive()

    def begin_stop(self) -> None:
        """Take no new task from now on; running ones go on."""
        self._stopping.set()
        state.should_stop = 0

    def join(self, timeout_s: float) -> bool:
        """Wait for the running tasks; True when all have ended and the connection is closed."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        state.should_stop = None
        return True

    def stop(self, timeout_s: float) -> bool:
        """`begin_stop` and `join`."""
        self.begin_stop()
        return self.join(timeout_s)

    def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._stopping.is_set():
            started = time.monotonic()
            controller = WorkController(
                app=self._app,
                hostname=f"{self._name}@{socket.gethostname()}",
                pool="threads",
                concurrency=self._concurrency,
                queues=self._queues,
                ready_callback=self._on_ready,
                without_gossip=True,
                without_mingle=True,
                without_heartbeat=True,
                loglevel="WARNING",
            )
            controller.start()  # until it is told to stop, or cannot go on
            if self._stopping.is_set():
                return
            log.error("worker.ended_unexpectedly", worker=self._name, exit_code=controller.exitcode)
            self._drop_messages()
            backoff_s = FIRST_BACKOFF_S if time.monotonic() - started > 60 else min(backoff_s * 2, LONGEST_BACKOFF_S)
            self._stopping.wait(backoff_s)

    def _drop_messages(self) -> None:
        """Empty our queues, because one message in them ends Celery's consumer each time it is delivered.

        Nothing is lost: messages are hints, and the sweeper sends those of waiting jobs again.
        """
        keys = [key for queue in self._queues for key in list_keys(queue)]
        try:
            with self._app.pool.acquire(block=True, timeout=10) as connection:
                dropped = connection.default_channel.client.delete(*keys)
        except (RedisError, KombuError, OSError) as error:
            log.warning("worker.queues_not_emptied", detail=str(error))
        else:
            log.warning("worker.queues_emptied", queues=self._queues, lists=dropped)

    def _on_ready(self, _consumer: Any) -> None:
        self.ready.set()
        log.info("worker.ready", worker=self._name, queues=self._queues, threads=self._concurrency)
