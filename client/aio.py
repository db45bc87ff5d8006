"""The client for asyncio: the same calls as `client.sync`, awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from client.errors import Unreachable
from client.models import Answer, Document, Job, Passage, StreamEvent, Uploaded
from client.wire import (
    Call,
    EventReader,
    ask_call,
    checked,
    feedback_call,
    idempotent,
    page_call,
    pause_before_repeat,
    search_call,
    upload_call,
)

POLL_S = 0.5


class AsyncTsumugi:
    """One service, as one key sees it."""

    def __init__(
        self, url: str, key: str, *, timeout_s: float = 60.0, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        """url: without `/v1`. timeout_s: of one request, and between two events of a stream."""
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(timeout_s, connect=min(10.0, timeout_s)),
            transport=transport,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def search(
        self, query: str, *, limit: int = 5, collection: str | None = None, filters: Mapping[str, Any] | None = None
    ) -> list[Passage]:
        """Passages, best first.

        Raises:
            Unreachable: no answer came.
            Refused: the service refuses.
        """
        found = await self._send(search_call(query, limit, collection, filters))
        return [Passage.parse(item) for item in found["items"]]

    async def ask(
        self,
        question: str,
        *,
        collection: str | None = None,
        conversation_id: str | None = None,
        adapter: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
    ) -> Answer:
        """A whole answer, with citations."""
        options = {
            "collection": collection, "conversation_id": conversation_id, "adapter": adapter,
            "max_tokens": max_tokens, "temperature": temperature,
        }  # fmt: skip
        return Answer.parse(await self._send(ask_call(question, False, options)))

    async def stream(self, question: str, **options: Any) -> AsyncIterator[StreamEvent]:
        """Events of an answer as they come; options as those of `ask`.

        Raises:
            Unreachable: the connection broke; what came before was right.
            Refused: the service refuses, or gave up half-way.
        """
        call = ask_call(question, True, options)
        reader = EventReader()
        try:
            async with self._http.stream(call.method, call.path, **call.arguments()) as response:
                if not response.is_success:
                    await response.aread()
                    checked(response)
                async for line in response.aiter_lines():
                    for event in reader.feed(line):
                        yield event
        except httpx.TransportError as error:
            raise Unreachable(f"the answer broke off: {error}") from error

    async def upload(
        self,
        source: Path | bytes,
        *,
        filename: str | None = None,
        collection: str | None = None,
        external_id: str | None = None,
        groups: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Uploaded:
        """Take a document in. The same `external_id` replaces; the same bytes again change nothing."""
        options = {
            "collection": collection, "external_id": external_id,
            "groups": list(groups) if groups is not None else None,
            "metadata": dict(metadata) if metadata is not None else None,
        }  # fmt: skip
        return Uploaded.parse((await self._send(upload_call(source, filename, options)))["items"][0])

    async def documents(self, *, status: str | None = None, collection: str | None = None) -> AsyncIterator[Document]:
        """All documents that the key may see, newest first."""
        cursor = None
        while True:
            page = await self._send(page_call("/v1/documents", cursor, {"status": status, "collection": collection}))
            for item in page["items"]:
                yield Document.parse(item)
            cursor = page["next_cursor"]
            if cursor is None:
                return

    async def document(self, document_id: str) -> Document:
        """One document."""
        return Document.parse(await self._send(Call("GET", f"/v1/documents/{document_id}")))

    async def delete(self, document_id: str) -> Uploaded:
        """Delete a document: no search sees it from now on; its job removes the rest."""
        return Uploaded.parse(await self._send(Call("DELETE", f"/v1/documents/{document_id}", headers=idempotent())))

    async def job(self, job_id: str) -> Job:
        """One job."""
        return Job.parse(await self._send(Call("GET", f"/v1/jobs/{job_id}")))

    async def wait(self, job_id: str, *, timeout_s: float = 600.0) -> Job:
        """Wait for a job to end, and return it as it is then or when the time is up."""
        deadline = time.monotonic() + timeout_s
        while True:
            job = await self.job(job_id)
            if job.finished or time.monotonic() >= deadline:
                return job
            await asyncio.sleep(POLL_S)

    async def feedback(
        self,
        answer_id: str,
        rating: Literal["up", "down"],
        *,
        correction: str | None = None,
        comment: str | None = None,
        consent: bool = False,
    ) -> None:
        """Rate an answer; only with `consent` may it be learnt from."""
        await self._send(feedback_call(answer_id, rating, correction, comment, consent))

    async def _send(self, call: Call) -> Any:
        attempt = 0
        while True:
            try:
                response = await self._http.request(call.method, call.path, **call.arguments())
            except httpx.TransportError as error:
                pause = pause_before_repeat(call, error, attempt)
                if pause is None:
                    raise Unreachable(f"{self._http.base_url} does not answer: {error}") from error
            else:
                pause = pause_before_repeat(call, response, attempt)
                if pause is None:
                    return checked(response)
            attempt += 1
            await asyncio.sleep(pause)
