"""Bounds on request bodies, enforced while they stream in.

A refused upload is answered at once, then the rest of it is read and thrown away (within bounds): closing a socket with
unread bytes makes the kernel send a reset, and the caller would see a broken pipe where the problem body should be.
"""

from __future__ import annotations

import re
import time
from typing import Final

import anyio
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem_response, response_of
from core.errors import Unavailable
from core.settings import Settings
from core.storage import require_room

DRAIN_MAX_BYTES: Final = 2**30
DRAIN_TIMEOUT_S: Final = 30.0

_UPLOAD_PATH = re.compile(r"/v1/(documents|datasets|admin/adapters/[^/]+/versions)/?")


class BodyTooLarge(HTTPException):
    """The body passed its limit. An HTTPException, because form and JSON parsing let only those through."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"the body is larger than {limit} bytes")


class BodyLimitMiddleware:
    """Counts body bytes by Content-Length and as they come; an upload that the disk has no room for is not begun."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._all_settings = settings
        self._settings = settings.http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request with a counted body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self.limit_of(scope["path"], headers.get("content-type", ""))
        length = headers.get("content-length", "0")
        has_body = length != "0" or "transfer-encoding" in headers
        body = _CountedBody(receive, limit, complete=not has_body, waits="expect" in headers)

        async def send_after_body(message: Message) -> None:
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            if ends and not body.complete:
                await send({**message, "more_body": True})
                await body.drain()
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        if not length.isascii() or not length.isdigit():
            refused = problem_response(scope, status=400, code="malformed_body", detail="Content-Length is no number")
            await refused(scope, receive, send)
        elif int(length) > limit:
            refused = problem_response(
                scope,
                status=413,
                code="too_large",
                detail=f"the body has {length} bytes; at most {limit} are taken here",
                extra={"limit": limit, "actual": int(length)},
            )
            await refused(scope, body.receive, send_after_body)
        elif (full := self._no_room(scope, int(length) if "content-length" in headers else limit)) is not None:
            await response_of(scope, full)(scope, body.receive, send_after_body)
        else:
            await self.app(scope, body.receive, send_after_body)

    def _no_room(self, scope: Scope, size_bytes: int) -> Unavailable | None:
        """Why an upload of at most so many bytes cannot be taken now, or None."""
        if scope["method"] != "POST" or not _UPLOAD_PATH.fullmatch(scope["path"]):
            return None
        try:
            require_room(self._all_settings, size_bytes)
        except Unavailable as full:
            return full
        return None

    def limit_of(self, path: str, content_type: str) -> int:
        """Bytes allowed: what waits on disk has the large limit."""
        in_memory = stays_in_memory(path, content_type)
        return self._settings.max_json_bytes if in_memory else self._settings.max_upload_bytes


def stays_in_memory(path: str, content_type: str) -> bool:
    """Whether a body is read into memory: all but uploads, and of those documents that come as JSON."""
    if not _UPLOAD_PATH.fullmatch(path):
        return True
    is_json = content_type.partition(";")[0].strip().lower() == "application/json"
    return is_json and path.startswith("/v1/documents")


class _CountedBody:
    def __init__(self, receive: Receive, limit: int, *, complete: bool, waits: bool) -> None:
        self._receive = receive
        self._limit = limit
        self._read = 0
        self._waits_for_go = waits  # `Expect: 100-continue`: nothing comes until the body is first asked for
        self.complete = complete

    async def receive(self) -> Message:
        message = await self._receive()
        self._note(message)
        if self._read > self._limit:
            raise BodyTooLarge(self._limit)
        return message

    async def drain(self) -> None:
        if self._waits_for_go:
            return
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        with anyio.move_on_after(DRAIN_TIMEOUT_S):
            while not self.complete and self._read < DRAIN_MAX_BYTES and time.monotonic() < deadline:
                self._note(await self._receive())

    def _note(self, message: Message) -> None:
        self._waits_for_go = False
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        else:
            self.complete = True
