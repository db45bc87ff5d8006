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
"""Before a request is sent again; `Retry-After` of the service wins when it is short."""
LONGEST_PAUSE_S = 10.0


def pause_before_repeat(call: Call[Any], outcome: httpx.Response | httpx.TransportError, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; None when this outcome is final or attempts are used up."""
    if attempt >= len(PAUSES_S):
        return None
    if isinstance(outcome, httpx.TransportError):
        untouched = isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
        return PAUSES_S[attempt] if call.repeatable or untouched else None
    if outcome.status_code not in {429, 503} and not (call.repeatable and outcome.status_code in {502, 504}):
        return None
    asked = outcome.headers.get("retry-after", "")
    return min(float(asked), LONGEST_PAUSE_S) if asked.isdigit() else PAUSES_S[attempt]


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
    raise Refused(response.status_code, problem if isinstance(problem, dict) else {"detail": str(problem)})


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
