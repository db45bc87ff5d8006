"""Requests and answers as both clients send and read them. Each write has an idempotency key: it may be repeated."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from client.errors import Refused
from client.models import StreamEvent

PAUSES_S = (0.2, 0.8)
"""Before a request is sent again; `Retry-After` of the service wins when it is short."""
LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class Call:
    """One request, ready to be sent any number of times."""

    method: str
    path: str
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    data: Mapping[str, str] | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    """Whether it may be sent again when the service may have worked on it already."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of httpx."""
        given = {"params": dict(self.params), "json": self.json, "data": self.data, "files": self.files}
        return {name: value for name, value in given.items() if value is not None} | {"headers": dict(self.headers)}


def search_call(query: str, limit: int, collection: str | None, filters: Mapping[str, Any] | None) -> Call:
    """Search reads only: it may be repeated as it is."""
    body = {"query": query, "limit": limit, "collection": collection, "filters": dict(filters) if filters else None}
    return Call("POST", "/v1/search", json=_given(body))


def ask_call(question: str, stream: bool, options: Mapping[str, Any]) -> Call:
    """A question: generating takes seconds, so it is repeated only if the service has not taken it."""
    body = _given({"question": question, "stream": stream or None, **options})
    return Call("POST", "/v1/ask", json=body, repeatable=False)


def upload_call(source: Path | bytes, filename: str | None, options: Mapping[str, Any]) -> Call:
    """One file, with what is known of it.

    Raises:
        ValueError: bytes without a file name.
        OSError: the file cannot be read.
    """
    name = filename or (source.name if isinstance(source, Path) else None)
    if name is None:
        raise ValueError("bytes need a filename: its ending says how they are read")
    data = source.read_bytes() if isinstance(source, Path) else source
    form = {key: value if isinstance(value, str) else json.dumps(value) for key, value in _given(options).items()}
    return Call("POST", "/v1/documents", data=form, files=[("file", (name, data))], headers=idempotent())


def feedback_call(answer_id: str, rating: str, correction: str | None, comment: str | None, consent: bool) -> Call:
    """What somebody says of an answer."""
    body = _given({"rating": rating, "correction": correction, "comment": comment})
    return Call("POST", f"/v1/answers/{answer_id}/feedback", json={**body, "consent": consent}, headers=idempotent())


def page_call(path: str, cursor: str | None, params: Mapping[str, Any]) -> Call:
    """One page of a list."""
    return Call("GET", path, params=_given({"limit": 100, "cursor": cursor, **params}))


def idempotent() -> dict[str, str]:
    """Header that makes a write safe to repeat."""
    return {"Idempotency-Key": uuid.uuid4().hex}


def pause_before_repeat(call: Call, outcome: httpx.Response | httpx.TransportError, attempt: int) -> float | None:
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


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
