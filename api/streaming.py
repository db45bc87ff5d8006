"""Blocking iterators as server-sent events, without blocking the loop and without losing a cancellation.

One thread per stream pulls the iterator and hands items to the loop. When the client goes, the async side ends first
and calls `cancel`, which makes the iterator end, which ends the thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import anyio
import structlog
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive, Scope, Send

from api.errors import problem_body, problem_of, request_id_of
from api.security import authenticate_request
from api.services import Services
from core.access import Principal
from core.errors import TsumugiError, Unauthenticated, Unavailable

log = structlog.stdlib.get_logger("api.streaming")
T = TypeVar("T")

STREAM_THREADS: Final = 160
SSE_HEADERS: Final = {"Cache-Control": "no-cache, no-store", "X-Accel-Buffering": "no"}

ADMITTED_FOR_S: Final = 1.0
"""How long a stream goes on without looking whether its key still is what it was."""

ErrorEvent = Callable[[Request, Exception], bytes]
"""An error as the last event of a stream."""

_DONE: Final = object()


class StreamPool:
    """Threads that pull blocking iterators."""

    def __init__(self, threads: int = STREAM_THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="stream")

    async def iterate(self, items: Iterable[T], cancel: Callable[[], None]) -> AsyncGenerator[T, None]:
        """Yield the items of a blocking iterable; `cancel` is called when the consumer stops before the end."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()

        def put(item: object) -> None:
            try:
                loop.call_soon_threadsafe(queue.put_nowait, item)
            except RuntimeError:  # the loop is closed: nobody listens
                cancel()

        def pull() -> None:
            try:
                for item in items:
                    put(item)
            except BaseException as error:  # noqa: BLE001 - handed to the loop, which raises it
                put(_Failed(error))
            else:
                put(_DONE)

        context = contextvars.copy_context()
        self._executor.submit(context.run, pull)
        ended = False
        try:
            while True:
                item = await queue.get()
                if item is _DONE:
                    ended = True
                    return
                if isinstance(item, _Failed):
                    ended = True
                    raise item.error
                yield item
        finally:
            if not ended:
                cancel()

    async def collect(self, request: Request, items: Iterable[T], cancel: Callable[[], None]) -> list[T]:
        """All items, cancelling when the client disconnects meanwhile.

        Call it only when the request body was read: it waits for the next message, which is then the disconnect.
        """
        collected: list[T] = []
        failure: Exception | None = None
        async with anyio.create_task_group() as group:

            async def cancel_on_disconnect() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                cancel()

            group.start_soon(cancel_on_disconnect)
            try:
                async for item in self.iterate(items, cancel):
                    collected.append(item)
            except Exception as error:  # noqa: BLE001 - raised below, outside the group, which would wrap it
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return collected

    def close(self) -> None:
        """Take no more streams; running ones end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class _Failed:
    def __init__(self, error: BaseException) -> None:
        self.error = error


async def while_admitted(
    request: Request, events: AsyncGenerator[bytes, None], error_event: ErrorEvent
) -> AsyncGenerator[bytes, None]:
    """Pass events on for as long as the caller's key is what it was, also while none come."""
    services: Services = request.app.state.services
    admitted: Principal = request.state.principal
    check_at = time.monotonic() + ADMITTED_FOR_S
    pending: asyncio.Future[bytes] | None = None
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(anext(events))
            await asyncio.wait({pending}, timeout=max(0.0, check_at - time.monotonic()))
            if time.monotonic() >= check_at:
                ended = await run_in_threadpool(_why_ended, request, services, admitted)
                if ended is not None:
                    log.info("stream ended with its key", code=ended.code)
                    yield error_event(request, ended)
                    return
                check_at = time.monotonic() + ADMITTED_FOR_S
            if pending.done():
                try:
                    event = pending.result()
                except StopAsyncIteration:
                    return
                pending = None
                yield event
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
            await asyncio.wait({pending})
        await events.aclose()


def _why_ended(request: Request, services: Services, admitted: Principal) -> Unauthenticated | None:
    try:
        if authenticate_request(request, services) == admitted:
            return None
    except Unauthenticated as error:
        return error
    except (Unavailable, SQLAlchemyError) as error:
        log.warning("key not checked again", error=repr(error))  # that says nothing of the key; asked again soon
        return None
    return Unauthenticated("what this key may do was changed; connect again", code="key_changed")


def _error_event(request: Request, error: Exception) -> bytes:
    return sse("error", problem_in_stream(request, error))


def sse(event: str | None, data: Mapping[str, Any] | str, *, event_id: str | None = None) -> bytes:
    """One server-sent event. JSON never holds a raw line break, so one data line is enough."""
    text = data if isinstance(data, str) else to_json(data)
    head = f"event: {event}\n" if event else ""
    number = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}{number}data: {text}\n\n".encode("utf-8", "backslashreplace")


def to_json(value: object) -> str:
    """JSON on one line, UTF-8 text left readable."""
    return json.dumps(value, ensure_ascii=False, default=str, separators=(",", ":"))


def problem_in_stream(request: Request, error: Exception) -> dict[str, Any]:
    """Body of an `error` event: the problem that would have been the response, had the stream not begun."""
    request_id = request_id_of(request.scope)
    if isinstance(error, TsumugiError):
        return problem_of(error, request_id)
    log.error("stream failed", exc_info=error)
    return problem_body(
        status=500,
        code="internal",
        detail="an unexpected error happened; the log holds it under this request id",
        request_id=request_id,
    )


class EventStream(StreamingResponse):
    """`text/event-stream` that closes its generator when the client goes, instead of leaving that to the collector.

    It ends with an `error` event within ADMITTED_FOR_S of the moment when its caller's key is revoked, expires or
    loses a right: what a stream may show was judged when it began.
    """

    media_type = "text/event-stream"

    def __init__(self, request: Request, events: AsyncGenerator[bytes, None], error: ErrorEvent | None = None) -> None:
        self._events = while_admitted(request, events, error or _error_event)
        super().__init__(self._events, headers=SSE_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._events.aclose()
