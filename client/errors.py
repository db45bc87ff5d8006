"""Errors of the client.

ClientError
  Unreachable    no answer came: no connection, a broken one, a timeout
  Refused        the service answered with a problem; switch on `code`, which is stable
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ClientError(Exception):
    """Base of all errors raised on purpose."""


class Unreachable(ClientError):
    """No answer came. Writes carry an idempotency key, so the same call may be made again."""


class Refused(ClientError):
    """The service answered with a problem.

    `code` is one of docs/api-errors.md, `errors` names fields; `retryable` says that the same call may work later, and
    `retry_after_s` after how many seconds, where the service says so.
    """

    def __init__(self, status: int, problem: Mapping[str, Any], *, retry_after_s: float | None = None) -> None:
        self.status = status
        self.code = str(problem.get("code", "unknown"))
        self.detail = str(problem.get("detail") or problem.get("title") or "no reason was given")
        self.request_id: str | None = problem.get("request_id")
        self.errors: list[dict[str, Any]] = list(problem.get("errors") or ())
        self.retryable = bool(problem.get("retryable", status in {429, 503}))
        told = problem.get("retry_after_s", retry_after_s)
        self.retry_after_s = float(told) if told is not None else None
        super().__init__(f"{self.detail} ({status} {self.code})")
