"""Query parameters of every list. The cursor itself is made and read by `core.paging`; here it is only a string."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Query

from core.paging import MAX_LIMIT

DEFAULT_LIMIT: Final = 50


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What a list was asked for."""

    limit: int
    cursor: str | None


def _page(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Items on a page.")] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=1000, description="`next_cursor` of the page before.")] = None,
) -> PageRequest:
    return PageRequest(limit, cursor or None)


PageQuery = Annotated[PageRequest, Depends(_page)]
