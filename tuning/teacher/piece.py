"""One piece of a build: what it is given and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from core.access import Principal

_DETAIL_CHARS = 300


class Asker(Protocol):
    """Asks the teacher once."""

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of its reply; raises `tuning.endpoint.EndpointFailed`."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """What all pieces of a build share."""

    build_id: str
    teacher: str
    principal: Principal


@dataclass(frozen=True, slots=True)
class Outcome:
    """Canonical rows (with `label` or `chosen` where they are no plain answers), and what was refused with its code."""

    rows: list[dict[str, Any]]
    left_out: list[dict[str, Any]]


def left_out(piece_id: str, code: str, detail: str) -> dict[str, Any]:
    """Why something made no row."""
    return {"piece": piece_id, "code": code, "detail": detail[:_DETAIL_CHARS]}
