"""Checks that every route taking a question shares."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

import anyio
import anyio.to_thread
from fastapi import Request
from sqlalchemy import select

from core.access import Principal
from core.database import Database
from core.errors import FieldError, NotFound, TooLarge
from core.settings import Settings
from core.tables import Collection

T = TypeVar("T")
Result = TypeVar("Result")


class TenantThreads:
    """Threads for what is searched and weighed before a question is handed to the generator: a few for each tenant.

    This takes CPU and the interpreter. In threads that all share, forty questions of one tenant would leave none to the
    others, and in as many of their own a fortieth of a core.
    """

    def __init__(self, each: int = max(4, os.cpu_count() or 1)) -> None:
        self._each = each
        self._limiters: dict[str, anyio.CapacityLimiter] = {}

    async def run(self, tenant_id: str, call: Callable[[], Result]) -> Result:
        """Run a call in a thread of the tenant's, when one is free."""
        if tenant_id not in self._limiters:
            self._limiters[tenant_id] = anyio.CapacityLimiter(self._each)
        return await anyio.to_thread.run_sync(call, limiter=self._limiters[tenant_id])


async def in_turn(request: Request, caller: Principal, call: Callable[[], Result]) -> Result:
    """Run a search, or an answer up to its generation, in a thread of the caller's tenant."""
    threads: TenantThreads = request.app.state.asking
    return await threads.run(caller.tenant_id, call)


def check_length(settings: Settings, text: str, field: str) -> None:
    """Refuse a question that no model should see.

    Raises:
        TooLarge: `question_too_long`.
    """
    limit = settings.http.max_question_chars
    if len(text) > limit:
        detail = f"{field} has {len(text)} characters; at most {limit} are taken"
        raise TooLarge(
            detail,
            code="question_too_long",
            errors=[FieldError(f"body.{field}", detail, "question_too_long")],
            extra={"limit": limit, "actual": len(text)},
        )


def find_collection_id(db: Database, principal: Principal, name: str | None) -> str | None:
    """Id of a collection of the caller's tenant; None for all of them.

    Raises:
        NotFound: `collection_not_found`.
    """
    if name is None:
        return None
    with db.read() as session:
        found = session.scalar(
            select(Collection.id).where(Collection.tenant_id == principal.tenant_id, Collection.name == name)
        )
    if found is None:
        raise NotFound(f"no collection {name!r}", code="collection_not_found")
    return found


async def first_then_rest(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Wait for the first item, so that an early failure is raised here, and give back the whole sequence."""
    first = await anext(items)

    async def chained() -> AsyncGenerator[T, None]:
        async with aclosing(items):
            yield first
            async for item in items:
                yield item

    return chained()
