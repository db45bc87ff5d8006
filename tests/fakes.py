"""Hand-written stand-ins for fast tests of rules. Parts that can be had for real are real in the other tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from core.errors import Unavailable


class FakeClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakeQueue:
    """A broker in a list, which can be down or lose messages."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, str | int], str, int]] = []
        self.down = False

    def send(self, task: str, arguments: Mapping[str, str | int], queue: str, priority: int) -> None:
        if self.down:
            raise Unavailable("the broker is down")
        self.messages.append((task, dict(arguments), queue, priority))

    def depth(self, queue: str) -> int:
        if self.down:
            raise Unavailable("the broker is down")
        return sum(1 for message in self.messages if message[2] == queue)

    def reset(self) -> None:
        self.messages.clear()

    @property
    def job_ids(self) -> list[str]:
        return [str(arguments["job_id"]) for _, arguments, _, _ in self.messages]
