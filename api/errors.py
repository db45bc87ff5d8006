"""Errors as RFC 9457 problem details. The two tables below are the only place where an error gets an HTTP status.

`code` is the contract: clients switch on it, `docs/api-errors.md` lists it, and it never changes its meaning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DatabaseError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.types import Scope

from core import errors as core_errors
from core.environment import STORAGE_CODES, environment_fault
from core.errors import FieldError, TsumugiError

log = structlog.stdlib.get_logger("api.errors")

STATUS_OF_ERROR: Final[Mapping[type[TsumugiError], int]] = {
    core_errors.InvalidInput: 422,
    core_errors.UnsupportedFormat: 415,
    core_errors.TooLarge: 413,
    core_errors.NotFound: 404,
    core_errors.Conflict: 409,
    core_errors.Unauthenticated: 401,
    core_errors.Forbidden: 403,
    core_errors.ExtractionFailed: 422,
    core_errors.AdapterRefused: 422,
    core_errors.GateFailed: 409,
    core_errors.DatasetRejected: 422,
    core_errors.Unavailable: 503,
    core_errors.Cancelled: 409,
    core_errors.Interrupted: 503,
    core_errors.Postponed: 503,
    core_errors.LeaseLost: 409,
    core_errors.DataDirBusy: 503,
    TsumugiError: 500,
}

STATUS_OF_CODE: Final[Mapping[str, int]] = {
    "context_length_exceeded": 400,
    "invalid_cursor": 400,
    "malformed_body": 400,
    "malformed_json": 400,
    "question_too_long": 422,
    "queue_full": 429,
    "rate_limited": 429,
    "storage_full": 507,
    "too_many_at_once": 429,
    "unsupported_content": 400,
    "unsupported_parameter": 400,
}
"""Codes whose status differs from that of their class."""

CODE_OF_STATUS: Final[Mapping[int, str]] = {
    400: "malformed_body",
    404: "route_not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "too_large",
    415: "unsupported_media_type",
}
"""Codes for errors that the framework raises by status alone."""

RETRY_AFTER_S: Final[Mapping[int, int]] = {429: 2, 503: 2, 507: 60}
"""Statuses with `Retry-After`, and its seconds where the error carries no time of its own. Room is made by people."""

_OPENAI_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def status_of(error: TsumugiError) -> int:
    """HTTP status of an error: by its code if the table names it, else by the nearest class."""
    if error.code in STATUS_OF_CODE:
        return STATUS_OF_CODE[error.code]
    return next(STATUS_OF_ERROR[kind] for kind in type(error).__mro__ if kind in STATUS_OF_ERROR)


def problem_body(
    *,
    status: int,
    code: str,
    detail: str,
    request_id: str,
    errors: Sequence[FieldError] = (),
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The members of a problem; `extra` adds members and cannot replace one."""
    body: dict[str, Any] = {
        "type": f"urn:tsumugi:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "detail": detail,
        "code": code,
        "request_id": request_id,
    }
    if errors:
        body["errors"] = [{"location": e.location, "detail": e.detail, "code": e.code} for e in errors]
    for name, value in (extra or {}).items():
        body.setdefault(name, value)
    return body


def problem_of(error: TsumugiError, request_id: str) -> dict[str, Any]:
    """Problem body of an error of ours, for a response or for an `error` event in a stream."""
    return problem_body(
        status=status_of(error),
        code=error.code,
        detail=error.detail,
        request_id=request_id,
        errors=error.errors,
        extra={**error.extra, "retryable": error.retryable},
    )


class ProblemResponse(Response):
    """`application/problem+json`. Text that UTF-8 cannot carry is escaped, so that an error can always be sent."""

    media_type = "application/problem+json"

    def render(self, content: Any) -> bytes:
        """JSON, with lone surrogates written as escapes."""
        return json.dumps(content, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")


def request_id_of(scope: Scope) -> str:
    """Id of the request, set by the outermost middleware."""
    return str(scope.get("state", {}).get("request_id", ""))


def problem_response(
    scope: Scope,
    *,
    status: int,
    code: str,
    detail: str,
    errors: Sequence[FieldError] = (),
    extra: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """Build the response. Routes that OpenAI clients call get an `error` member besides, which those clients read."""
    body = problem_body(
        status=status, code=code, detail=detail, request_id=request_id_of(scope), errors=errors, extra=extra
    )
    if str(scope.get("path", "")).startswith(("/v1/chat/", "/v1/models")):
        kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
        param = errors[0].location if errors else None
        body["error"] = {"message": detail, "type": kind, "param": param, "code": code}
    return ProblemResponse(body, status_code=status, headers=dict(headers or {}))


def response_of(scope: Scope, error: TsumugiError) -> ProblemResponse:
    """Response of an error of ours, with the headers its status asks for."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status == 401:
        invalid = ', error="invalid_token"' if error.extra.get("presented") else ""
        headers["WWW-Authenticate"] = f'Bearer realm="tsumugi"{invalid}'
    elif status == 403 and "scope" in error.extra:
        headers["WWW-Authenticate"] = (
            f'Bearer realm="tsumugi", error="insufficient_scope", scope="{error.extra["scope"]}"'
        )
    elif status in RETRY_AFTER_S:
        headers["Retry-After"] = str(error.extra.get("retry_after_s", RETRY_AFTER_S[status]))
    if status >= 500:
        log.warning("request failed", code=error.code, detail=error.detail, status=status)
    return problem_response(
        scope,
        status=status,
        code=error.code,
        detail=error.detail,
        errors=error.errors,
        extra={**error.extra, "retryable": error.retryable},
        headers=headers,
    )


def _on_tsumugi_error(request: Request, error: Exception) -> Response:
    """Whoever reads input takes any error for the input's; one that the disk made is told by its own code."""
    assert isinstance(error, TsumugiError)
    fault = environment_fault(error)
    return response_of(request.scope, fault if fault is not None and fault.code in STORAGE_CODES else error)


def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        where = found[0]["loc"][-1]
        reason = found[0].get("ctx", {}).get("error", "not JSON")
        return problem_response(
            request.scope, status=400, code="malformed_json", detail=f"the body is not JSON: {reason} at {where}"
        )
    if found[0]["loc"] == ("body",) and not _is_json(request):
        return problem_response(
            request.scope,
            status=415,
            code="unsupported_media_type",
            detail="send the body as `Content-Type: application/json`",
        )
    fields = [
        FieldError(
            location=".".join(str(part) for part in item["loc"]),
            detail=str(item["msg"]),
            code=str(item["type"]),
        )
        for item in found[:100]
    ]
    first = fields[0]
    return problem_response(
        request.scope,
        status=422,
        code="invalid_request",
        detail=f"{len(found)} field(s) refused; first: {first.location}: {first.detail}",
        errors=fields,
    )


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    code = CODE_OF_STATUS.get(status, "malformed_body" if status < 500 else "internal")
    detail = str(error.detail)
    if status == 404:
        detail = f"no route {request.method} {request.url.path}"
    elif status == 405:
        detail = f"{request.method} is not allowed here"
    return problem_response(request.scope, status=status, code=code, detail=detail, headers=error.headers)


def _on_database_error(request: Request, error: Exception) -> Response:
    log.error("database failed", error=repr(error))
    fault = environment_fault(error)
    if fault is None or fault.code == "database_unavailable":
        fault = core_errors.Unavailable("the database does not answer now; try again")
    return response_of(request.scope, fault)


def _on_system_error(request: Request, error: Exception) -> Response:
    """A disk that is full or damaged, no memory, no handles: none is a bug. Whatever else goes on to `api.context`."""
    fault = environment_fault(error)
    if fault is None:
        raise error
    log.error("environment failed", error=repr(error))
    return response_of(request.scope, fault)


def _on_integrity_error(request: Request, error: Exception) -> Response:
    """Two requests at once made what only one may: the other may look again, and finds the first one's."""
    log.warning("write lost a race", error=repr(error))
    conflict = core_errors.Conflict(
        "another request changed the same thing at the same time; try again", retryable=True
    )
    return response_of(request.scope, conflict)


def install(app: FastAPI) -> None:
    """Register the handlers. What none of them takes is answered by `api.context` as `internal`."""
    app.add_exception_handler(TsumugiError, _on_tsumugi_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    # Locked for longer than the busy timeout, connection lost, or no connection free in the pool.
    app.add_exception_handler(OperationalError, _on_database_error)
    app.add_exception_handler(IntegrityError, _on_integrity_error)
    app.add_exception_handler(InterfaceError, _on_database_error)
    app.add_exception_handler(PoolTimeout, _on_database_error)
    app.add_exception_handler(DatabaseError, _on_system_error)
    app.add_exception_handler(OSError, _on_system_error)
    app.add_exception_handler(MemoryError, _on_system_error)
