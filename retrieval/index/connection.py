"""Calls to a Qdrant server: several addresses in turn, one deadline for a call and its retries, errors with codes.

What only an operator can mend (a key, a limit, a full disk) may pass, so it is retryable: jobs wait for it. It is not
tried again within a call, though, which would only add load.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from json import JSONDecodeError
from typing import Any, TypeVar

import httpx
import structlog
from pydantic import ValidationError
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from core.deadline import left_s
from core.errors import Unavailable
from core.settings_qdrant import QdrantSettings

log = structlog.stdlib.get_logger(__name__)

OLDEST_SERVER = (1, 19)
_WAITS_S = (0.1, 0.4, 1.6)
"""Pauses before a request is sent again. Every request of this package may be: ids are deterministic."""
_CONNECT_S = 5.0
_KEEP_ALIVE_S = 3.0
"""Shorter than the server keeps an idle connection, or it closes one just as a request goes out on it."""

_HANDLED = (ResponseHandlingException, UnexpectedResponse, ResourceExhaustedResponse, JSONDecodeError)

T = TypeVar("T")
_attempt_s: ContextVar[float | None] = ContextVar("attempt_s", default=None)


class AlreadyExists(Exception):
    """The collection that was to be made is there already."""


class BodyTooLarge(Exception):
    """The server takes fewer bytes, or fewer points, at once."""


class Connection:
    """Clients of one server or cluster, one per address. Thread-safe over HTTP."""

    def __init__(self, clients: Sequence[QdrantClient], timeout_s: float = 30.0) -> None:
        """timeout_s: for a call with all its retries, unless `core.deadline` leaves less. Clients are taken over."""
        self._clients = tuple(clients)
        self._timeout_s = timeout_s
        self._current = 0

    @property
    def client(self) -> QdrantClient:
        """The client of the address that answered last."""
        return self._clients[self._current]

    def call(self, request: Callable[[QdrantClient], T], where: str) -> T:
        """Answer of a request; sent again where an address did not answer or was overloaded.

        Raises:
            Unavailable: `index_unreachable`, `index_timeout`, `index_overloaded`, `index_throttled`, `index_disk_full`,
                `index_unauthorised`, `index_standalone`, `index_strict_mode`, `index_missing`, `index_not_qdrant` are
                retryable, `index_rejected` is not. No message holds the key: the client sends it as a header.
            BodyTooLarge, AlreadyExists: see there.
        """
        until = time.monotonic() + left_s(self._timeout_s)
        trouble = Unavailable(f"{where}: no time is left to ask", code="index_timeout")
        for pause_s in (*_WAITS_S, None):
            wait_s = pause_s
            for untried in range(len(self._clients), 0, -1):
                left = until - time.monotonic()
                if left <= 0:
                    raise trouble
                number = self._current
                token = _attempt_s.set(left / min(untried, 2))
                try:
                    return request(self._clients[number])
                except _HANDLED as error:
                    trouble, again, least_s = _trouble_of(error, where)
                    trouble.__cause__ = error
                    if not again:
                        raise trouble from error
                    wait_s = None if pause_s is None else max(pause_s, least_s)
                finally:
                    _attempt_s.reset(token)
                self._current = (number + 1) % len(self._clients)
            if wait_s is None or wait_s >= until - time.monotonic():
                break
            log.warning("index.retry", where=where, code=trouble.code, wait_s=wait_s)
            time.sleep(wait_s)
        raise trouble

    def close(self) -> None:
        """Close all connections; closing twice is fine."""
        for client in self._clients:
            client.close()


def connect(settings: QdrantSettings) -> Connection:
    """Connection to the configured server or cluster.

    Raises:
        Unavailable: no address answers, the key is not taken, or the server is older than 1.19.
    """
    connection = Connection([_client(address, settings) for address in settings.addresses], settings.timeout_s)
    where = f"the Qdrant server at {settings.url}"
    try:
        version = connection.call(lambda client: client.info(), where).version
        numbers = version.split("-")[0].split(".")[:2]
        if not all(part.isdigit() for part in numbers):
            log.warning("index.server_version_unknown", version=version, needed="1.19 or newer")
        elif tuple(map(int, numbers)) < OLDEST_SERVER:
            raise Unavailable(
                f"{where} is version {version}; 1.19 or newer is needed", code="index_server_too_old", retryable=False
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _client(address: str, settings: QdrantSettings) -> QdrantClient:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client = QdrantClient(
            url=address,
            port=443 if address.startswith("https:") else 6333,
            api_key=settings.api_key.get_secret_value() if settings.api_key else None,
            timeout=int(settings.timeout_s),
            # Compressed answers over kept connections cost 40 ms each: the server waits for the client's receipt.
            headers={"Accept-Encoding": "identity"},
            limits=httpx.Limits(
                max_connections=settings.pool_size,
                max_keepalive_connections=settings.pool_size,
                keepalive_expiry=_KEEP_ALIVE_S,
            ),
            check_compatibility=False,  # it warns from a thread of its own; `connect` raises
        )
    for warning in caught:
        log.warning("index.client_warning", address=address, detail=str(warning.message))
    client.http.client.add_middleware(_bounded)
    return client


def _bounded(request: httpx.Request, send: Callable[[httpx.Request], httpx.Response]) -> httpx.Response:
    seconds = _attempt_s.get()
    if seconds is not None:
        request.extensions["timeout"] = httpx.Timeout(seconds, connect=min(seconds, _CONNECT_S)).as_dict()
    return send(request)


def _trouble_of(error: Exception, where: str) -> tuple[Unavailable, bool, float]:
    """(what to raise, whether to try again at once, seconds to wait before that at least)."""
    if isinstance(error, ResourceExhaustedResponse):
        wait_s = float(error.retry_after_s)
        detail = f"{where}: the server takes no more requests for {wait_s:.0f} s: {error}"
        return Unavailable(detail, code="index_throttled", extra={"retry_after_s": wait_s}), True, wait_s
    source = error.source if isinstance(error, ResponseHandlingException) else error
    if isinstance(source, ValidationError | JSONDecodeError):
        detail = f"{where}: what answers there is not a Qdrant server, or stands before one"
        return Unavailable(detail, code="index_not_qdrant"), False, 0.0
    if isinstance(error, ResponseHandlingException):
        if isinstance(source, httpx.TimeoutException):
            return Unavailable(f"{where} does not answer in time", code="index_timeout"), True, 0.0
        return Unavailable(f"{where} cannot be reached: {source}", code="index_unreachable"), True, 0.0
    assert isinstance(error, UnexpectedResponse)
    return _refusal(error, where)


def _refusal(error: UnexpectedResponse, where: str) -> tuple[Unavailable, bool, float]:
    status = error.status_code or 500
    reason = error.content.decode("utf-8", "replace")[:300]

    def refused(code: str, detail: str, *, again: bool = False, **extra: Any) -> tuple[Unavailable, bool, float]:
        return Unavailable(f"{where}: {detail}", code=code, **extra), again, 0.0

    if status == 409 or (status == 400 and "already exists" in reason):
        raise AlreadyExists from error
    if status == 413 or (status == 400 and ("larger than allowed" in reason or '\\"upsert' in reason)):
        raise BodyTooLarge from error
    if status == 405 and "standalone" in reason:
        detail = "shards for tenants need a cluster (`cluster.enabled`, of one node or more)"
        return refused("index_standalone", detail)
    if status in {401, 403}:
        return refused("index_unauthorised", "the server refuses the API key, or the key may not do this")
    if status == 404 and "exist" in reason:
        return Unavailable(f"{where} does not exist on the server", code="index_missing"), False, 0.0
    if status == 507 or "No space left" in reason:
        return refused("index_disk_full", f"the server's disk is full: {reason}")
    if status == 408:
        return refused("index_timeout", f"the server gave up on the request: {reason}", again=True)
    if status == 429:
        return refused("index_throttled", f"the server takes no more requests: {reason}", again=True)
    if status >= 500:
        return refused("index_overloaded", f"the server answers {status}: {reason}", again=True)
    if "Help:" in reason:
        return refused("index_strict_mode", f"strict mode of the collection forbids it: {reason}")
    if status == 404 or reason.lstrip().startswith("<"):
        return refused("index_not_qdrant", f"what answers there is not a Qdrant server: {reason[:80]}")
    return refused("index_rejected", f"the server refuses the request: {reason}", retryable=False)
