"""Does a canary that is worse roll back by itself, and one that is equal stay? `python -m benchmarks.canary`.

Everything but people and model is the product's own: conversations are routed by the router, answers and votes go into
the SQL tables, and the monitor looks, tests and moves the alias through the registry. Only the outcomes are drawn, from
fixed rates per conversation. Seeds make the runs repeatable.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from sqlalchemy import insert, select

from core.access import Principal
from core.database import Database
from core.migrate import upgrade
from core.settings import load_settings
from core.tables import (
    AdapterAlias,
    AdapterFamily,
    AdapterVersion,
    Answer,
    AnswerFailure,
    CanaryTrial,
    FamilyPolicy,
    Feedback,
)
from core.tables.base import new_id
from core.tenants import create_tenant
from core.types import AdapterRef, Scope
from generation.adapters.registry import AdapterRegistry
from generation.adapters.routing import CANARY, Router
from generation.canary.monitor import CanaryMonitor, Outcome
from generation.canary.policy import Figure, Policy

SLOW_MS, FAST_MS = 9_000.0, 1_500.0

CHAMPION_RATES: Mapping[Figure, float] = {
    Figure.DOWN_VOTE: 0.04,
    Figure.REFUSAL: 0.12,
    Figure.UNCITED: 0.18,
    Figure.SLOW: 0.10,
    Figure.ERROR: 0.004,
}
"""Share of conversations in which it happens."""
WORSE_RATES: Mapping[Figure, float] = {**CHAMPION_RATES, Figure.DOWN_VOTE: 0.13, Figure.UNCITED: 0.34}
"""Deliberately worse: three times the down-votes, and an answer without a verified citation in one of three."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How one simulated trial ended."""

    seed: int
    outcome: str
    canary_conversations: int
    reason: str | None


class NoModel:
    """An engine that holds no model: the simulation draws outcomes instead of generating text."""

    base_model = "simulated"

    def ensure_adapter(self, adapter: AdapterRef) -> None:
        """Every adapter fits."""


class Simulation:
    """One database, one tenant; each trial gets a family of its own with a champion and a canary."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        settings = load_settings(data_dir=folder)
        self.db = Database(settings.database_url)
        upgrade(self.db)
        with self.db.write() as session:
            self.tenant_id = create_tenant(session, "simulated").id
        self.registry = AdapterRegistry(self.db, settings, NoModel())  # type: ignore[arg-type]
        self.router = Router(self.db, settings)
        self.monitor = CanaryMonitor(self.db, self.registry)
        self.policy = policy
        self.admin = Principal(self.tenant_id, "simulated", frozenset({Scope.ADMIN}), frozenset())

    def run(self, seed: int, canary_rates: Mapping[Figure, float], *, per_look: int = 25) -> Ending:
        """Conversations come in until the trial ends. per_look: conversations between two looks of the monitor."""
        random = np.random.default_rng(seed)
        family = f"f{new_id('x')[2:10]}"
        family_id = self._family(family)
        self.registry.promote(self.admin, family, "v1")
        self.registry.promote(self.admin, family, "v2", canary_percent=self.policy.canary_percent)
        with self.db.read() as session:
            started = session.get_one(AdapterAlias, (family_id, CANARY)).updated_at
        now = started
        settle = timedelta(seconds=self.policy.settle_s)
        number = 0
        while True:
            for _ in range(20_000 // per_look):
                answers: list[dict[str, Any]] = []
                votes: list[dict[str, Any]] = []
                failures: list[dict[str, Any]] = []
                for _ in range(per_look):
                    now += timedelta(seconds=30)
                    number += 1
                    self._converse(family, f"{seed}-{number}", now, random, canary_rates, answers, votes, failures)
                with self.db.write() as session:
                    for table, rows in ((Answer, answers), (Feedback, votes), (AnswerFailure, failures)):
                        if rows:
                            session.execute(insert(table), rows)
                if self.monitor.look(now) or self._passed(family_id):
                    return self._ending(family_id, seed)
            now += settle

    def _converse(
        self,
        family: str,
        name: str,
        at: datetime,
        random: np.random.Generator,
        canary_rates: Mapping[Figure, float],
        answers: list[dict[str, Any]],
        votes: list[dict[str, Any]],
        failures: list[dict[str, Any]],
    ) -> None:
        route = self.router.route(self.admin, family, name)
        rates = canary_rates if route.arm == CANARY else CHAMPION_RATES
        happens = {figure: bool(random.random() < rates[figure]) for figure in Figure}
        common = {
            "tenant_id": self.tenant_id,
            "family_id": route.family_id,
            "arm": route.arm,
            "conversation_id": name,
            "adapter_version_id": route.version_id,
            "created_at": at,
        }
        if happens[Figure.ERROR]:
            failures.append({"id": new_id("fai"), "code": "simulated", **common})
        answer_id = new_id("ans")
        refused = happens[Figure.REFUSAL]
        answers.append(
            {
                "id": answer_id,
                "question": "?",
                "answer": "!",
                "refused": refused,
                "citations": [] if refused else [{"verified": not happens[Figure.UNCITED]}],
                "passages": [],
                "provenance": {},
                "usage": {},
                "parameters": {},
                "timings_ms": {"total": SLOW_MS if happens[Figure.SLOW] else FAST_MS},
                **common,
            }
        )
        if happens[Figure.DOWN_VOTE]:
            votes.append(
                {
                    "id": new_id("fbk"), "tenant_id": self.tenant_id, "answer_id": answer_id, "rating": "down",
                    "consent": False, "created_at": at + timedelta(seconds=min(60.0, self.policy.settle_s / 2)),
                }
            )  # fmt: skip

    def _family(self, name: str) -> str:
        with self.db.write() as session:
            family = AdapterFamily(tenant_id=self.tenant_id, name=name, version_counter=2)
            session.add(family)
            session.flush()
            for number in (1, 2):
                session.add(
                    AdapterVersion(
                        tenant_id=self.tenant_id, family_id=family.id, version=f"v{number}", digest=f"{number:064x}",
                        status="candidate", gate_report={"verdict": "candidate"},
                    )
                )  # fmt: skip
            session.add(
                FamilyPolicy(family_id=family.id, tenant_id=self.tenant_id, policy=self.policy.model_dump(mode="json"))
            )
            return family.id

    def _passed(self, family_id: str) -> bool:
        with self.db.read() as session:
            outcome = session.scalar(select(CanaryTrial.outcome).where(CanaryTrial.family_id == family_id))
        return outcome == Outcome.PASSED

    def _ending(self, family_id: str, seed: int) -> Ending:
        with self.db.read() as session:
            trial = session.scalars(select(CanaryTrial).where(CanaryTrial.family_id == family_id)).one()
            alias = session.get_one(AdapterAlias, (family_id, CANARY))
        if (trial.outcome == Outcome.ROLLED_BACK) != (alias.version_id is None):
            raise RuntimeError(f"trial {trial.id} is '{trial.outcome}' and the alias says otherwise")
        if trial.outcome == Outcome.PASSED:  # so that the next trial's looks need not count this one on
            with self.db.write() as session:
                session.get_one(AdapterAlias, (family_id, CANARY)).version_id = None
        return Ending(seed, trial.outcome, trial.figures["conversations"][CANARY], trial.reason)


def summary(endings: Sequence[Ending]) -> dict[str, Any]:
    """Counts, and how many conversations of the canary a rollback took."""
    rolled = [ending.canary_conversations for ending in endings if ending.outcome == Outcome.ROLLED_BACK]
    return {
        "n": len(endings),
        "rolled_back": len(rolled),
        "median_conversations": float(np.median(rolled)) if rolled else None,
        "most_conversations": max(rolled, default=None),
    }


def main() -> int:
    """Print both tables; exit 1 where the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=100, help="simulations of each kind")
    parser.add_argument("--json", type=Path, help="write every ending here")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    policy = Policy()
    folder = Path(tempfile.mkdtemp(prefix="tsumugi-canary-"))
    found: dict[str, list[Ending]] = {}
    try:
        simulation = Simulation(folder, policy)
        for name, rates in (("worse", WORSE_RATES), ("equal", CHAMPION_RATES)):
            begun = time.monotonic()
            found[name] = [simulation.run(seed, rates) for seed in range(arguments.limit)]
            figures = summary(found[name])
            print(
                f"{name:6} {figures['rolled_back']:4} of {figures['n']} rolled back within "
                f"{policy.canary_conversations} conversations of the canary "
                f"(median {figures['median_conversations']}, most {figures['most_conversations']}; "
                f"{time.monotonic() - begun:.0f} s)"
            )
        simulation.db.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        arguments.json.write_text(
            json.dumps({name: [asdict(one) for one in endings] for name, endings in found.items()}, indent=1), "utf-8"
        )
    worse, equal = summary(found["worse"]), summary(found["equal"])
    return int(worse["rolled_back"] < 0.95 * worse["n"] or equal["rolled_back"] > 0.05 * equal["n"])


if __name__ == "__main__":
    sys.exit(main())
