"""Transactional outbox: a task message is a row of the transaction that needs it, and is published after the commit.

A crash between commit and publication leaves the row, and `dispatch_due` finds it. Publishing comes before the row is
dropped, so a crash in between publishes twice, which is harmless: a worker must claim the job.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError

from core.database import Database, WriteSession
from core.errors import Unavailable
from core.notify import OUTBOX_TOPIC, Notifier
from core.ports import TaskQueue
from core.queue import QUEUE_OF_TASK, Task
from core.tables.base import utc_now
from core.tables.jobs import Job, OutboxMessage
from core.types import JobStatus

log = structlog.stdlib.get_logger(__name__)

GRACE_S = 2.0
"""Rows younger than this are left to the thread that wrote them: it publishes them right after its commit."""

_PENDING = "tsumugi_outbox"


class Outbox:
    """Adds messages to transactions and publishes them. With no queue, rows wait for a process that has one."""

    def __init__(
        self,
        db: Database,
        queue: TaskQueue | None,
        notifier: Notifier | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._db = db
        self._queue = queue
        self._notifier = notifier
        self._clock = clock

    def add(
        self,
        session: WriteSession,
        task: Task,
        arguments: Mapping[str, str | int],
        *,
        priority: int = 5,
        not_before: datetime | None = None,
    ) -> OutboxMessage:
        """Add a message; it goes out after this transaction has committed, or when `not_before` has come."""
        message = OutboxMessage(
            task=task.value,
            arguments=dict(arguments),
            queue=QUEUE_OF_TASK[task].value,
            priority=priority,
            created_at=self._clock(),
            not_before=not_before,
        )
        session.add(message)
        session.flush()
        if not_before is not None and not_before > self._clock():
            if self._notifier is not None:
                notifier = self._notifier
                session.after_commit(lambda: notifier.publish(OUTBOX_TOPIC))
            return message
        pending: list[str] | None = session.info.get(_PENDING)
        if pending is None:
            pending = session.info.setdefault(_PENDING, [])
            # One publication for all messages of the transaction: a batch upload makes one write, not thirty.
            ids = pending
            session.after_commit(lambda: self._publish_quietly(ids))
        pending.append(message.id)
        return message

    def dispatch_due(self, limit: int = 1000) -> int:
        """Publish what is due and was left over; returns how many. An unavailable broker ends the round."""
        now = self._clock()
        settled = now - timedelta(seconds=GRACE_S)
        with self._db.read() as session:
            left_over = (
                select(OutboxMessage.id)
                .where(OutboxMessage.not_before.is_(None), OutboxMessage.created_at <= settled)
                .order_by(OutboxMessage.created_at, OutboxMessage.id)
            )
            delayed = (
                select(OutboxMessage.id)
                .where(OutboxMessage.not_before.is_not(None), OutboxMessage.not_before <= now)
                .order_by(OutboxMessage.not_before)
            )
            ids = [id_ for query in (left_over, delayed) for id_ in session.scalars(query.limit(limit))]
        return self._publish(ids)

    def next_due(self) -> datetime | None:
        """When the next delayed or left-over message may go; None when there is none."""
        with self._db.read() as session:
            undelayed = OutboxMessage.not_before.is_(None)
            oldest = session.scalar(select(func.min(OutboxMessage.created_at)).where(undelayed))
            delayed = session.scalar(
                select(func.min(OutboxMessage.not_before)).where(OutboxMessage.not_before.is_not(None))
            )
        times = [oldest + timedelta(seconds=GRACE_S)] if oldest is not None else []
        if delayed is not None:
            times.append(delayed)
        return min(times, default=None)

    def waiting(self) -> int:
        """Messages not yet published, delayed ones included."""
        with self._db.read() as session:
            return session.scalar(select(func.count()).select_from(OutboxMessage)) or 0

    def _publish_quietly(self, ids: Sequence[str]) -> None:
        """After a commit nothing may fail the caller any more: the rows are there, and the next round finds them."""
        try:
            self._publish(ids)
        except SQLAlchemyError:
            log.exception("outbox.not_settled", count=len(ids))

    def _publish(self, ids: Sequence[str]) -> int:
        if self._queue is None or not ids:
            return 0
        with self._db.read() as session:
            messages = session.scalars(
                select(OutboxMessage)
                .where(OutboxMessage.id.in_(ids))
                .order_by(OutboxMessage.priority, OutboxMessage.created_at, OutboxMessage.id)
            ).all()
        sent: list[OutboxMessage] = []
        refused: OutboxMessage | None = None
        for message in messages:
            try:
                self._queue.send(message.task, message.arguments, message.queue, message.priority)
            except Unavailable as error:
                refused = message
                log.warning("outbox.broker_unavailable", waiting=len(messages) - len(sent), detail=error.detail)
                break
            sent.append(message)
        if sent or refused is not None:
            self._settle(sent, refused)
        return len(sent)

    def _settle(self, sent: Sequence[OutboxMessage], refused: OutboxMessage | None) -> None:
        job_ids = [str(message.arguments["job_id"]) for message in sent if "job_id" in message.arguments]
        with self._db.write() as session:
            session.execute(delete(OutboxMessage).where(OutboxMessage.id.in_([message.id for message in sent])))
            session.execute(
                update(Job)
                .where(Job.id.in_(job_ids), Job.status == JobStatus.QUEUED.value)
                .values(sent_at=self._clock())
            )
            if refused is not None:
                session.execute(
                    update(OutboxMessage)
                    .where(OutboxMessage.id == refused.id)
                    .values(send_attempts=OutboxMessage.send_attempts + 1)
                )
        log.debug("outbox.published", count=len(sent))
