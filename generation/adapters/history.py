"""Where a rollback goes: the aliases' history read as a stack."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from core.database import ReadSession
from core.tables import AliasEvent

RETIRE = "retire"
"""Action of a move that takes a version out for good; it goes back as a rollback does, or on to a replacement."""
REFUSED = "refused"
"""Action of a move that was asked for and not made; its reason says why, and the alias stayed."""


def champions(events: Iterable[tuple[str, str | None]]) -> list[str | None]:
    """Fold (action, version moved to), oldest first, into the champions one could go back through, current last.

    A promote adds to the stack; a rollback takes off what it passed, so that a second rollback goes further back and
    never forward again to the version that was just left. The base (None) lies under everything.
    """
    stack: list[str | None] = [None]
    for action, version in events:
        if action in {"rollback", RETIRE} and version in stack:
            while stack[-1] != version:
                stack.pop()
        elif stack[-1] != version:
            stack.append(version)
    return stack


def has_served(session: ReadSession, family_id: str, alias: str, version: str) -> bool:
    """Whether an alias of a family ever stood at a version: promoted, past the gate or by somebody who signed."""
    query = select(AliasEvent.id).where(
        AliasEvent.family_id == family_id,
        AliasEvent.alias == alias,
        AliasEvent.action != REFUSED,
        AliasEvent.to_version == version,
    )
    return session.scalar(query.limit(1)) is not None


def champion_stack(session: ReadSession, family_id: str, alias: str) -> list[str | None]:
    """The stack of a family, as version names."""
    rows = session.execute(
        select(AliasEvent.action, AliasEvent.to_version)
        .where(AliasEvent.family_id == family_id, AliasEvent.alias == alias, AliasEvent.action != REFUSED)
        .order_by(AliasEvent.revision)
    )
    return champions((action, version) for action, version in rows)
