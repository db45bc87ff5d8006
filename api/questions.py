"""Checks that every route taking a question shares."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request
from sqlalchemy import select

from api.tenant_threads import TenantThreads
from core.access import Principal
from core.database import Database
from core.errors import FieldError, NotFound, TooLarge
from core.settings import Settings
from core.tables import Collection

T = TypeVar("T")
Result = TypeVar("Result")


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
