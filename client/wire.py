"""What both transports need: when a request is sent again, what a refusal says, and how events are read.

Each write has an idempotency key, so it may be repeated even when the service may have worked on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from client.calls import Call
from client.errors import Refused
from client.models import StreamEvent

PAUSES_S = (0.2, 0.8)
"""Before a request is sent again; `Retry-After` of the service wins."""
LONGEST_PAUSE_S = 10.0
"""Whoever is told to stay away for longer is not kept waiting: the refusal is raised, with the time in it."""


def pause_before_repeat(call: Call[Any], outcome: httpx.Response | httpx.TransportError, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; None when this outcome is final or attempts are used up."""
    if attempt >= len(PAUSES_S):
        return None
    if isinstance(outcome, httpx.TransportError):
        untouched = isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return PAUSES_S[attempt] if call.repeatable or untouched else None
    if outcome.status_code not in {429, 503} and not (call.repeatable and outcome.status_code in {502, 504}):
        return None
    asked = _told(outcome)
    if asked is None:
        return PAUSES_S[attempt]
    return asked if asked <= LONGEST_PAUSE_S else None


def _told(response: httpx.Response) -> float | None:
    """Seconds of `Retry-After`."""
    told = response.headers.get("retry-after", "")
    return float(told) if told.isascii() and told.isdigit() else None


def checked(response: httpx.Response) -> Any:
    """JSON of a good answer, None for an empty one.

    Raises:
        Refused: it is a problem.
    """
    if response.is_success:
        return response.json() if response.content else None
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": response.text[:300] or response.reason_phrase}
    found = problem if isinstance(problem, dict) else {"detail": str(problem)}
    raise Refused(response.status_code, found, retry_after_s=_told(response))


class EventReader:
    """Server-sent events out of lines."""

    def __init__(self) -> None:
        self._event = "message"
        self._data: list[str] = []

    def feed(self, line: str) -> Iterator[StreamEvent]:
        """Events that a line completes: one, or none.

        Raises:
            Refused: the stream carries an error.
        """
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._event = value
            elif name == "data":
                self._data.append(value)
            return
        if self._data:
            event = StreamEvent(self._event, json.loads("\n".join(self._data)))
            if event.event == "error":
                raise Refused(int(event.data.get("status", 500)), event.data)
            yield event
        self._event, self._data = "message", []
