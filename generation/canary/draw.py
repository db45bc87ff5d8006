"""By what a request is drawn for an arm: its conversation, else its user, else itself. Said in the answer's stamp."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class DrawnBy(StrEnum):
    """What is drawn, and counted once, in a trial."""

    CONVERSATION = "conversation"
    USER = "user"
    """All requests of one user: clients of OpenAI's API send `user` and know no conversations."""
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Unit:
    """One thing that is drawn."""

    by: DrawnBy
    id: str
    """At most 100 characters; never what a client calls its user."""


def unit_of(
    tenant_id: str, conversation_id: str | None, user: str | None = None, request_id: str | None = None
) -> Unit | None:
    """What a request is drawn by; None where it belongs to nothing that could be."""
    if conversation_id:
        return Unit(DrawnBy.CONVERSATION, conversation_id)
    if user:
        return Unit(DrawnBy.USER, f"user:{hashlib.sha256(f'{tenant_id}:{user}'.encode()).hexdigest()[:32]}")
    return Unit(DrawnBy.REQUEST, request_id) if request_id else None
