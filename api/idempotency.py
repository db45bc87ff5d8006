"""Idempotency-Key on writes: the first answer is kept, the same request again gets it back, another body is refused.

Only answers of 2xx are kept; after anything else the key is free again, so that a corrected request can use it.
Multipart bodies are compared without their boundary, which HTTP clients invent anew for each try.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from tempfile import SpooledTemporaryFile
from typing import IO, Final

import anyio
from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import delete, select
from starlette.types import Message, Receive

from core.access import Principal
from core.database import Database, insert_new
from core.errors import Conflict, InvalidInput
from core.tables import IdempotencyRecord
from core.tables.base import utc_now

KEEP_FOR: Final = timedelta(hours=24)
DEAD_AFTER: Final = timedelta(minutes=10)
"""A first request that has not ended by then died with its process; its key may be used again."""
SPOOL_BYTES: Final = 2**20
"""Bodies above this size wait on disk while their digest is computed."""

_WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_READ_LIKE: Final = frozenset({"/v1/search", "/v1/ask", "/v1/chat/completions"})
"""POST by necessity; nothing to do twice."""
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_BOUNDARY = re.compile(r'boundary="?([^";,]+)"?', re.IGNORECASE)

Handler = Callable[[Request], Awaitable[Response]]


async def run_idempotent(request: Request, principal: Principal, route: str, db: Database, handle: Handler) -> Response:
    """Run `handle`, or answer as it was answered the first time."""
    key = request.headers.get("idempotency-key")
    if key is None or request.method not in _WRITES or route in _READ_LIKE:
        return await handle(request)
    if not _KEY.fullmatch(key):
        raise InvalidInput("Idempotency-Key takes 1 to 200 visible ASCII characters", code="invalid_idempotency_key")
    with SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        digest = await _spool_body(request, spool)
        ledger = IdempotencyLedger(db, principal.key_id, key)
        where = f"{request.method} {request.url.path}?{request.url.query}"[:200]
        stored = await run_in_threadpool(ledger.begin, where, digest)
        if stored is not None:
            return stored
        try:
            response = await handle(Request(request.scope, _replay(spool, request.receive)))
            await run_in_threadpool(ledger.finish, response)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await run_in_threadpool(ledger.abandon)
            raise
        return response


class IdempotencyLedger:
    """The record of one key of one caller."""

    def __init__(self, db: Database, key_id: str, key: str) -> None:
        self._db = db
        self._key_id = key_id
        self._key = key

    def begin(self, route: str, body_sha256: str) -> Response | None:
        """Claim the key; the stored response if the request was answered before.

        Raises:
            Conflict: `idempotency_conflict` (another body or route), `idempotency_in_progress`.
        """
        now = utc_now()
        with self._db.write() as session:
            session.execute(delete(IdempotencyRecord).where(IdempotencyRecord.created_at < now - KEEP_FOR))
            record = session.scalar(
                select(IdempotencyRecord).where(
                    IdempotencyRecord.key_id == self._key_id, IdempotencyRecord.idempotency_key == self._key
                )
            )
            if record is not None and record.status is None and record.created_at < now - DEAD_AFTER:
                session.delete(record)
                session.flush()
                record = None
            if record is None:
                claim = insert_new(
                    session,
                    IdempotencyRecord,
                    key_id=self._key_id,
                    idempotency_key=self._key,
                    route=route,
                    body_sha256=body_sha256,
                    created_at=now,
                )
                if claim:
                    return None
                record = session.get_one(IdempotencyRecord, (self._key_id, self._key))  # made at the same moment
            if record.route != route or record.body_sha256 != body_sha256:
                raise Conflict("this Idempotency-Key was used for another request", code="idempotency_conflict")
            if record.status is None:
                raise Conflict(
                    "the first request with this Idempotency-Key still runs",
                    code="idempotency_in_progress",
                    retryable=True,
                )
            return _response_from(record.status, record.response)

    def finish(self, response: Response) -> None:
        """Keep a good answer; free the key after any other."""
        if not 200 <= response.status_code < 300 or not hasattr(response, "body"):
            self.abandon()
            return
        body = bytes(response.body).decode("utf-8")
        if getattr(response, "holds_secret", False):  # shown once means once: the replay says null
            body = json.dumps({**json.loads(body), "secret": None}, ensure_ascii=False)
        with self._db.write() as session:
            record = session.get(IdempotencyRecord, (self._key_id, self._key))
            if record is not None:
                record.status = response.status_code
                record.response = json.dumps({"body": body, "media_type": response.headers.get("content-type")})

    def abandon(self) -> None:
        """Free the key: nothing was done under it."""
        with self._db.write() as session:
            session.execute(
                delete(IdempotencyRecord).where(
                    IdempotencyRecord.key_id == self._key_id,
                    IdempotencyRecord.idempotency_key == self._key,
                    IdempotencyRecord.status.is_(None),
                )
            )


def forget_interrupted(db: Database) -> int:
    """At the start of the only process: first requests that never ended died with the one before. Returns how many."""
    with db.write() as session:
        found = session.scalars(select(IdempotencyRecord).where(IdempotencyRecord.status.is_(None))).all()
        for record in found:
            session.delete(record)
        return len(found)


def _response_from(status: int, stored: str | None) -> Response:
    kept = json.loads(stored or '{"body": "", "media_type": null}')
    response = Response(kept["body"], status_code=status, headers={"Idempotency-Replayed": "true"})
    if kept["media_type"]:
        response.headers["content-type"] = kept["media_type"]
    return response


async def _spool_body(request: Request, spool: IO[bytes]) -> str:
    found = _BOUNDARY.search(request.headers.get("content-type", ""))
    digest = BoundaryFreeDigest(found.group(1).encode("latin-1") if found else b"")
    async for block in request.stream():
        digest.update(block)
        if len(block) + spool.tell() > SPOOL_BYTES:
            await run_in_threadpool(spool.write, block)
        else:
            spool.write(block)
    spool.seek(0)
    return digest.hexdigest()


class BoundaryFreeDigest:
    """SHA-256 of a body in which each occurrence of the multipart boundary counts as one mark, however it is cut."""

    def __init__(self, boundary: bytes) -> None:
        self._boundary = boundary
        self._sha = hashlib.sha256()
        self._held = b""

    def update(self, block: bytes) -> None:
        """Add bytes."""
        if not self._boundary:
            self._sha.update(block)
            return
        data = self._held + block
        *before, rest = data.split(self._boundary)
        for part in before:
            self._sha.update(part)
            self._sha.update(b"\x00boundary\x00")
        keep = min(len(self._boundary) - 1, len(rest))
        self._sha.update(rest[: len(rest) - keep])
        self._held = rest[len(rest) - keep :]

    def hexdigest(self) -> str:
        """Digest of all that was added."""
        self._sha.update(self._held)
        self._held = b""
        return self._sha.hexdigest()


def _replay(spool: IO[bytes], receive: Receive) -> Receive:
    ended = False

    async def replayed() -> Message:
        nonlocal ended
        if ended:
            return await receive()
        block = await run_in_threadpool(spool.read, 2**18)
        ended = not block
        return {"type": "http.request", "body": block, "more_body": not ended}

    return replayed
