"""Who calls, and whether they may: bearer keys, scopes, and the operator.

Every route of the API is a `GuardedRoute`. It refuses to exist without a `needs(...)`, and it checks the key and the
scope before it reads one byte of the body, so that a stranger cannot make this process parse anything.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from difflib import get_close_matches
from typing import Annotated, Any

import structlog
from fastapi import Depends, Request, Response, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select

from api.idempotency import run_idempotent
from api.json_bodies import BodyRoom, refuse_wide
from api.limits import stays_in_memory
from api.quotas import Quotas, RateLimited
from api.services import Services
from core.access import Principal
from core.errors import FieldError, Forbidden, InvalidInput, NotFound, Unauthenticated
from core.tables import Tenant
from core.tenants import DEFAULT_TENANT
from core.types import Scope

_bearer = HTTPBearer(auto_error=False, description="An API key, as made by `POST /v1/admin/keys`.")


class Guard:
    """Marks a route with the scopes of which one is needed; `operator` asks for an admin key of the default tenant."""

    def __init__(self, *scopes: Scope, operator: bool = False) -> None:
        self.scopes = scopes
        self.operator = operator

    def __call__(self, _credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]) -> None:
        """Declare the bearer scheme in the OpenAPI document; the check itself is in `GuardedRoute`."""

    def check_scopes(self, principal: Principal) -> None:
        """Raise Forbidden unless the principal holds one of the scopes."""
        if not any(principal.allows(scope) for scope in self.scopes):
            principal.require(self.scopes[0])


def needs(*scopes: Scope, operator: bool = False) -> Any:
    """Route dependency: a key with one of `scopes`."""
    return Depends(Guard(*scopes, operator=operator))


def is_operator(principal: Principal, services: Services) -> bool:
    """Whether the caller holds an admin key of the default tenant, and so may make tenants and read /metrics."""
    if not principal.allows(Scope.ADMIN):
        return False
    with services.db.read() as session:
        return session.scalar(select(Tenant.name).where(Tenant.id == principal.tenant_id)) == DEFAULT_TENANT


def require_operator(principal: Principal, services: Services) -> None:
    """Raise Forbidden unless the caller holds an admin key of the default tenant."""
    if not is_operator(principal, services):
        raise Forbidden("this needs an admin key of the default tenant", extra={"scope": Scope.ADMIN.value})


class GuardedRoute(APIRoute):
    """A route behind a key."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler: key, scope, sane path, Idempotency-Key, then the route itself."""
        guard = self.guard
        template = self.path
        handle = super().get_route_handler()
        parameters = (self.openapi_extra or {}).get("parameters", [])
        reads_json = self.body_field is not None
        known = frozenset([*_query_names(self.dependant), *(one["name"] for one in parameters if one["in"] == "query")])

        async def guarded(request: Request) -> Response:
            request.scope["state"]["route_template"] = template
            services: Services = request.app.state.services
            room: BodyRoom = request.app.state.body_room
            principal = await run_in_threadpool(_admit, request, services)
            request.state.principal = principal
            structlog.contextvars.bind_contextvars(tenant=principal.tenant_id, key=principal.key_id)
            guard.check_scopes(principal)
            if guard.operator:
                await run_in_threadpool(require_operator, principal, services)
            _refuse_odd_path(request)
            _refuse_unknown_query(request, known)
            if stays_in_memory(request.url.path, request.headers.get("content-type", "")):
                body = room.body(principal.tenant_id, request.receive)
                request.scope["state"]["held"].callback(body.leave)
                request = Request(request.scope, body.receive)
            if reads_json:
                refuse_wide(await request.body())
            return await run_idempotent(request, principal, template, services.db, handle)

        return guarded

    @property
    def guard(self) -> Guard:
        """The marker among the dependencies.

        Raises:
            TypeError: the route has none; it must not be served.
        """
        for dependency in self.dependencies:
            if isinstance(dependency.dependency, Guard):
                return dependency.dependency
        raise TypeError(f"{self.path} has no needs(...)")


def _admit(request: Request, services: Services) -> Principal:
    """Who calls, if they may call now: headers of the answer and what ends with it go into the request's state."""
    principal = authenticate_request(request, services)
    quotas: Quotas = request.app.state.quotas
    state = request.scope["state"]
    try:
        state["headers"] = quotas.take(principal)
    except RateLimited as error:
        state["headers"] = error.headers
        raise
    # Given back when all was sent, not when the route returns: a stream has only begun then.
    held = state["held"] = ExitStack()
    held.enter_context(quotas.running(principal))
    return principal


def authenticate_request(request: Request, services: Services) -> Principal:
    """Read the Authorization header.

    Raises:
        Unauthenticated: there is none, it is not a bearer key, or the key is unknown, expired or revoked.
    """
    header = request.headers.get("authorization", "")
    scheme, _, secret = header.partition(" ")
    if not header:
        raise Unauthenticated("send `Authorization: Bearer <key>`")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("the Authorization header holds no bearer key", extra={"presented": True})
    try:
        return services.authenticate(secret.strip())
    except Unauthenticated as error:
        raise Unauthenticated(error.detail, code=error.code, extra={**error.extra, "presented": True}) from error


def _refuse_odd_path(request: Request) -> None:
    """No id holds a NUL or half a surrogate pair; some databases raise on them, so they never get that far."""
    for value in request.path_params.values():
        text = str(value)
        if "\x00" in text or any("\ud800" <= char <= "\udfff" for char in text):
            raise NotFound("no such object")


def _query_names(dependant: Dependant) -> Iterator[str]:
    """Parameters that a route and what it depends on read from the query."""
    for field in dependant.query_params:
        yield field.alias
    for needed in dependant.dependencies:
        yield from _query_names(needed)


def _refuse_unknown_query(request: Request, known: frozenset[str]) -> None:
    """A misspelt filter is an error, like a misspelt field of a body: without it the answer would be of everything."""
    unknown = sorted({name for name in request.query_params if name not in known})
    if unknown:
        near = get_close_matches(unknown[0], known, n=1)
        told = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(known)) or 'none'}"
        raise InvalidInput(
            f"unknown query parameter '{unknown[0][:100]}'; {told}",
            code="invalid_request",
            errors=[FieldError(f"query.{name[:100]}", "unknown parameter", "invalid_request") for name in unknown[:20]],
        )


def current_principal(request: Request) -> Principal:
    """The caller of a guarded route."""
    principal: Principal = request.state.principal
    return principal


def current_services(request: Request) -> Services:
    """The services of this app."""
    services: Services = request.app.state.services
    return services


Caller = Annotated[Principal, Depends(current_principal)]
ServicesOf = Annotated[Services, Depends(current_services)]
