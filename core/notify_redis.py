"""Events between processes: what one publishes wakes the waiters of all others, through Redis publish/subscribe.

An event may be lost (Redis restarts, a slow subscriber), and none is repeated: it only shortens a wait. Every waiter
reads the database again when its own timeout ends, so a lost event costs at most that (a second for job events, the
sweeper's period for delayed messages).
"""

from __future__ import annotations

import queue
import threading
import uuid
from typing import Any

import structlog
from redis.exceptions import RedisError

from core.notify import Notifier

log = structlog.stdlib.get_logger(__name__)

CHANNEL = "tsumugi:events"
ROOM = 10_000
"""Events that may wait to be published; under an outage the rest is dropped."""
FIRST_BACKOFF_S = 0.2
LONGEST_BACKOFF_S = 5.0
LISTEN_S = 1.0


class RedisNotifier(Notifier):
    """A notifier whose topics reach every process of the service. Thread-safe; publishing never waits for Redis."""

    def __init__(self, broker_url: str) -> None:
        super().__init__()
        self._url = broker_url
        self._me = uuid.uuid4().hex
        self._outgoing: queue.Queue[str | None] = queue.Queue(ROOM)
        self._stopping = threading.Event()
        self.connected = threading.Event()
        """Set while events of other processes are heard."""
        self._threads = [
            threading.Thread(target=self._send, name="notify-send", daemon=True),
            threading.Thread(target=self._listen, name="notify-listen", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def publish(self, topic: str) -> None:
        """Wake who waits here at once, and elsewhere soon."""
        super().publish(topic)
        try:
            self._outgoing.put_nowait(topic)
        except queue.Full:
            log.warning("notify.dropped", topic=topic)

    def close(self) -> None:
        """Stop both threads; what waits to be sent is dropped."""
        self._stopping.set()
        try:
            self._outgoing.put_nowait(None)
        except queue.Full:
            log.debug("notify.queue_full_at_close")  # the sender looks at `_stopping` after each event
        for thread in self._threads:
            thread.join(LISTEN_S + 2.0)

    def _send(self) -> None:
        client = redis_client(self._url)
        while (topic := self._outgoing.get()) is not None and not self._stopping.is_set():
            try:
                client.publish(CHANNEL, f"{self._me} {topic}")
            except RedisError as error:
                log.debug("notify.not_sent", topic=topic, detail=str(error))
        client.close()

    def _listen(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while not self._stopping.is_set():
            client = redis_client(self._url)
            try:
                with client.pubsub(ignore_subscribe_messages=False) as heard:
                    heard.subscribe(CHANNEL)
                    while not self._stopping.is_set():
                        self._hear(heard.get_message(timeout=LISTEN_S))
                        backoff_s = FIRST_BACKOFF_S
            except (RedisError, OSError) as error:
                self.connected.clear()
                log.warning("notify.not_listening", detail=str(error), again_in_s=backoff_s)
                self._stopping.wait(backoff_s)
                backoff_s = min(backoff_s * 2, LONGEST_BACKOFF_S)
            finally:
                client.close()

    def _hear(self, message: dict[str, Any] | None) -> None:
        if message is None:
            return
        if message["type"] == "subscribe":
            self.connected.set()
        elif message["type"] == "message":
            sender, _, topic = message["data"].decode("utf-8", "replace").partition(" ")
            if sender != self._me:
                super().publish(topic)


def redis_client(broker_url: str) -> Any:
    """A client for a broker URL; `redis+socket://` is how Celery spells a unix socket."""
    import redis

    options: dict[str, Any] = {"socket_connect_timeout": 2.0, "socket_timeout": 10.0, "health_check_interval": 15}
    return redis.Redis.from_url(broker_url.replace("redis+socket://", "unix://", 1), **options)
