"""The client for threads. One object may be used by many at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from client.calls import Call, Sending, Surface, T, document_page, streamed
from client.errors import Unreachable
from client.models import Document, Job, StreamEvent
from client.wire import EventReader, checked, pause_before_repeat

POLL_S = 0.5


class Tsumugi(Surface, Sending):
    """One service, as one key sees it. The calls that are one request and one answer are those of `Surface`."""

    def __init__(
        self, url: str, key: str, *, timeout_s: float = 60.0, transport: httpx.BaseTransport | None = None
    ) -> None:
        """url: without `/v1`. timeout_s: of one request, and between two events of a stream."""
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def stream(self, question: str, **options: Any) -> Iterator[StreamEvent]:
        """Events of an answer as they come; options as those of `ask`.

        Raises:
            Unreachable: the connection broke; what came before was right.
            Refused: the service refuses, or gave up half-way.
        """
        call = streamed(question, options)
        reader = EventReader()
        try:
            with self._http.stream(call.method, call.path, **call.arguments()) as response:
                if not response.is_success:
                    response.read()
                    checked(response)
                for line in response.iter_lines():
                    yield from reader.feed(line)
        except httpx.TransportError as error:
            raise Unreachable(f"the answer broke off: {error}") from error

    def documents(self, *, status: str | None = None, collection: str | None = None) -> Iterator[Document]:
        """All documents that the key may see, newest first."""
        cursor = None
        while True:
            found, cursor = self._send(document_page(cursor, status=status, collection=collection))
            yield from found
            if cursor is None:
                return

    def wait(self, job_id: str, *, timeout_s: float = 600.0) -> Job:
        """Wait for a job to end, and return it as it is then or when the time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job.finished or time.monotonic() >= deadline:
                return job
            time.sleep(POLL_S)

    def _send(self, call: Call[T]) -> T:
        attempt = 0
        while True:
            try:
                response = self._http.request(call.method, call.path, **call.arguments())
            except httpx.TransportError as error:
                pause = pause_before_repeat(call, error, attempt)
                if pause is None:
                    raise Unreachable(f"{self._http.base_url} does not answer: {error}") from error
            else:
                pause = pause_before_repeat(call, response, attempt)
                if pause is None:
                    return call.parse(checked(response))
            attempt += 1
            time.sleep(pause)
