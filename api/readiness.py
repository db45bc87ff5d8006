"""What a dependency that is away does to readiness: the one table, and the answer of /readyz that follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final


class Effect(StrEnum):
    """What `/readyz` answers while a dependency fails."""

    UNREADY = "unready"
    """503: nothing can be answered."""
    DEGRADED = "degraded"
    """200 with its name in `degraded`: what needs it is refused or waits, the rest goes on."""


EFFECTS: Final[Mapping[str, Effect]] = {
    "draining": Effect.UNREADY,
    "database": Effect.UNREADY,
    "index": Effect.UNREADY,  # away, or without half of what it should hold
    "index_incomplete": Effect.DEGRADED,  # being refilled: answers find what is there
    "blobs": Effect.DEGRADED,  # search and answers go on; uploads answer 503
    "broker": Effect.DEGRADED,  # uploads are rows; jobs wait
    "generator": Effect.DEGRADED,  # searches, curated answers and quoted lines go on
    "embedder": Effect.DEGRADED,  # search by words goes on
    "disk": Effect.DEGRADED,  # reads go on; uploads answer 507
    "ingest_worker": Effect.DEGRADED,  # these three are started again by themselves; jobs wait meanwhile
    "beat": Effect.DEGRADED,
    "tuning_worker": Effect.DEGRADED,
}


def readiness(checks: Mapping[str, Mapping[str, Any]], *, draining: bool) -> tuple[int, dict[str, Any]]:
    """Status and body of `/readyz`. checks: by name, each with its `state`; a name that the table lacks is an error."""
    failing = [name for name, check in checks.items() if check["state"] != "ok"]
    unready = draining or any(EFFECTS[name] is Effect.UNREADY for name in failing)
    body = {
        "status": "draining" if draining else "not_ready" if unready else "ready",
        "degraded": degraded(failing),
        "checks": checks,
    }
    return 503 if unready else 200, body


def degraded(failing: Iterable[str]) -> list[str]:
    """Those of the failing checks without which the service goes on."""
    return [name for name in failing if EFFECTS[name] is Effect.DEGRADED]
