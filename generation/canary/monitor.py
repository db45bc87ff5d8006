"""Watches canaries: counts what settled, tests it, rolls back or passes; starts canaries where the policy says so.

The trial row is written first and the alias moved after, guarded by the revision that began the trial. A process that
dies in between leaves a decision that the next look carries out; a person who moved the alias meanwhile wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

import structlog
from sqlalchemy import exists, select

from core.database import Database, ReadSession, WriteSession
from core.errors import Conflict, TsumugiError, Unavailable
from core.tables.adapters import AdapterAlias, AdapterFamily, AdapterVersion
from core.tables.base import utc_now
from core.tables.canary import CanaryTrial, FamilyPolicy
from core.types import AdapterStatus
from generation.adapters.moves import AliasMove, Mover, PolicyMover
from generation.adapters.routing import CANARY, CHAMPION
from generation.canary.bounds import worse_by_at_most
from generation.canary.outcomes import add_up, settled_conversations, slow_limit_ms
from generation.canary.policy import Figure, Policy, Promotion, policy_of
from generation.canary.sequential import Counts, combined, log_evidence

log = structlog.stdlib.get_logger(__name__)


class Outcome(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    ROLLED_BACK = "rolled_back"
    PROMOTED = "promoted"
    PASSED = "passed"
    """The sample is complete and nothing was found; a person decides. Until then it is still tested."""
    NO_TRAFFIC = "no_traffic"
    """Nothing fell to the canary for as long as the policy waits; it was taken out."""
    ENDED = "ended"
    """Somebody moved the alias."""


class Registry(Protocol):
    """The part of the adapter registry that acts on a decision."""

    def promote(
        self,
        principal: Mover,
        family: str,
        version: str,
        *,
        reason: str | None = None,
        canary_percent: int | None = None,
        expected_revision: int | None = None,
    ) -> AliasMove:
        """Make a version the canary or the champion."""
        ...

    def rollback(
        self,
        principal: Mover,
        family: str,
        to: str | None = None,
        reason: str | None = None,
        *,
        expected_revision: int | None = None,
    ) -> AliasMove:
        """End the canary."""
        ...


class CanaryMonitor:
    """`look` may be called at any time, from any number of processes."""

    def __init__(self, db: Database, registry: Registry) -> None:
        self._db = db
        self._registry = registry

    def look(self, now: datetime | None = None) -> Sequence[str]:
        """Bring every trial up to date and act; ids of those that ended at this look."""
        moment = now or utc_now()
        self._end_abandoned(moment)
        self._start_by_rule()
        with self._db.read() as session:
            running = session.execute(
                select(AdapterAlias.family_id, AdapterAlias.revision)
                .where(AdapterAlias.alias == CANARY, AdapterAlias.version_id.is_not(None))
                .order_by(AdapterAlias.updated_at)
            ).all()
        return [
            trial_id
            for family_id, revision in running
            if (trial_id := self._look_at(family_id, revision, moment)) is not None
        ]

    def _look_at(self, family_id: str, revision: int, now: datetime) -> str | None:
        with self._db.write() as session:
            trial = _trial(session, family_id, revision)
            if trial is None:
                return None
            if trial.outcome in {Outcome.RUNNING, Outcome.PASSED}:
                _advance(session, trial, now)
            decided = Outcome(trial.outcome)
            family = session.get_one(AdapterFamily, family_id).name
            version = session.get_one(AdapterVersion, trial.version_id).version
        if decided in {Outcome.ROLLED_BACK, Outcome.PROMOTED, Outcome.NO_TRAFFIC}:
            self._act(trial, decided, family, version)
        return trial.id if trial.ended_at == now else None

    def _act(self, trial: CanaryTrial, decided: Outcome, family: str, version: str) -> None:
        mover = PolicyMover(trial.tenant_id)
        try:
            if decided is not Outcome.PROMOTED:
                self._registry.rollback(mover, family, reason=trial.reason, expected_revision=trial.alias_revision)
            else:
                self._registry.promote(
                    mover, family, version, reason=trial.reason, expected_revision=trial.alias_revision
                )
        except Unavailable as error:
            log.info("canary.cannot_act_here", family=family, outcome=decided.value, detail=error.detail)
            return
        except Conflict as error:
            if error.code == "alias_moved":
                return  # somebody was faster; the trial is closed at the next look
            self._give_up(trial, error)
            return
        except TsumugiError as error:
            self._give_up(trial, error)
            return
        log.warning("canary.decided", family=family, version=version, outcome=decided.value, reason=trial.reason)

    def _give_up(self, trial: CanaryTrial, error: TsumugiError) -> None:
        """The version cannot be promoted: a person has to look, and the trial says why."""
        with self._db.write() as session:
            row = session.get_one(CanaryTrial, trial.id)
            row.outcome = Outcome.PASSED.value
            row.reason = f"{row.reason}; but it could not be promoted: {error.detail} ({error.code})"
        log.warning("canary.not_promoted", trial=trial.id, code=error.code, detail=error.detail)

    def _end_abandoned(self, now: datetime) -> None:
        """Close trials whose alias went on without them."""
        still = exists().where(
            AdapterAlias.family_id == CanaryTrial.family_id,
            AdapterAlias.alias == CANARY,
            AdapterAlias.revision == CanaryTrial.alias_revision,
            AdapterAlias.version_id.is_not(None),
        )
        open_ones = (Outcome.RUNNING.value, Outcome.PASSED.value)
        with self._db.read() as session:
            gone = session.scalars(
                select(CanaryTrial.id).where(CanaryTrial.outcome.in_(open_ones), CanaryTrial.ended_at.is_(None), ~still)
            ).all()
        for trial_id in gone:
            with self._db.write() as session:
                trial = session.get_one(CanaryTrial, trial_id, with_for_update=True)
                if trial.outcome in open_ones and trial.ended_at is None:
                    trial.outcome = Outcome.ENDED.value
                    trial.ended_at = now
                    trial.reason = "the canary was moved by hand"

    def _start_by_rule(self) -> None:
        """Where a policy promotes by rule and no canary runs, the newest candidate that was never tried becomes one."""
        with self._db.read() as session:
            wanted = [
                (policy, family, version.version)
                for row in session.scalars(select(FamilyPolicy))
                if (policy := Policy.model_validate(row.policy)).promotion is Promotion.BY_RULE
                and (family := session.get_one(AdapterFamily, row.family_id))
                and (version := _untried(session, row.family_id)) is not None
            ]
        for policy, family, name in wanted:
            try:
                self._registry.promote(
                    PolicyMover(family.tenant_id), family.name, name,
                    reason="passed the gate; the family promotes by rule", canary_percent=policy.canary_percent,
                )  # fmt: skip
            except TsumugiError as error:
                # Tried again at the next look; only a process with an engine can load it.
                log.info("canary.not_started", family=family.name, version=name, code=error.code)


def _untried(session: ReadSession, family_id: str) -> AdapterVersion | None:
    aliases = {
        alias.alias: alias.version_id
        for alias in session.scalars(select(AdapterAlias).where(AdapterAlias.family_id == family_id))
    }
    if aliases.get(CANARY) is not None:
        return None
    newest = session.scalars(
        select(AdapterVersion)
        .where(AdapterVersion.family_id == family_id, AdapterVersion.status == AdapterStatus.CANDIDATE.value)
        .where(AdapterVersion.gate_report.is_not(None))
        .order_by(AdapterVersion.created_at.desc(), AdapterVersion.id.desc())
        .limit(1)
    ).one_or_none()
    if newest is None or newest.id == aliases.get(CHAMPION):
        return None
    tried = session.scalar(select(CanaryTrial.id).where(CanaryTrial.version_id == newest.id).limit(1))
    return newest if tried is None else None


def _trial(session: WriteSession, family_id: str, revision: int) -> CanaryTrial | None:
    """The trial that belongs to this move of the alias, begun at the first look; None when the alias went on."""
    alias = session.get(AdapterAlias, (family_id, CANARY))
    if alias is None or alias.revision != revision or alias.version_id is None:
        return None
    trial = session.scalars(
        select(CanaryTrial)
        .where(CanaryTrial.family_id == family_id, CanaryTrial.alias_revision == revision)
        .with_for_update()
    ).one_or_none()
    if trial is not None:
        return trial
    policy = policy_of(session, family_id)
    champion = session.get(AdapterAlias, (family_id, CHAMPION))
    trial = CanaryTrial(
        tenant_id=alias.tenant_id,
        family_id=family_id,
        alias_revision=revision,
        version_id=alias.version_id,
        champion_version_id=champion.version_id if champion else None,
        percent=alias.percent,
        policy=policy.model_dump(mode="json"),
        slow_after_ms=policy.slow_after_ms or slow_limit_ms(session, family_id, alias.updated_at),
        settled_until=alias.updated_at,
        created_at=alias.updated_at,
    )
    session.add(trial)
    session.flush()
    return trial


def _advance(session: WriteSession, trial: CanaryTrial, now: datetime) -> None:
    """Count what settled since the last look, and decide."""
    policy = Policy.model_validate(trial.policy)
    settle = timedelta(seconds=policy.settle_s)
    until = now - settle
    if until > trial.settled_until:
        fresh = settled_conversations(
            session, trial.family_id, since=trial.created_at, after=trial.settled_until, until=until, settle=settle,
            slow_after_ms=trial.slow_after_ms,
        )  # fmt: skip
        trial.counts = add_up(trial.counts, fresh)
        trial.settled_until = until
    last = trial.counts.get("last_at", {}).get(CANARY)
    since = datetime.fromisoformat(last) if last else trial.created_at
    ends = since + settle + timedelta(days=policy.idle_days)
    trial.figures = figures_of(trial.counts, trial.percent, policy, slow=trial.slow_after_ms is not None) | {
        "last_canary_at": last,
        "ends_without_traffic_at": ends.isoformat(),
    }
    decided, reason = decide(trial.figures, policy)
    if decided is Outcome.RUNNING and now >= ends:
        seen = trial.figures["conversations"][CANARY]
        decided, reason = (
            Outcome.NO_TRAFFIC,
            (
                f"nothing fell to the canary for {policy.idle_days:g} days ({seen} of {policy.canary_conversations} "
                "conversations in all), so that nothing can be said of it"
            ),
        )
    if trial.outcome == Outcome.PASSED and decided is not Outcome.ROLLED_BACK:
        return  # it waits for a hand; the test goes on for as long as it serves
    if decided is not Outcome.RUNNING:
        trial.outcome = decided.value
        trial.reason = reason
        if decided is not Outcome.PASSED:
            trial.ended_at = now


def figures_of(counts: dict[str, Any], percent: int, policy: Policy, *, slow: bool) -> dict[str, Any]:
    """Shares by arm, evidence by figure and in all. slow: whether there is a limit to call an answer slow by."""
    totals = counts.get("conversations", {})
    canary, champion = totals.get(CANARY, 0), totals.get(CHAMPION, 0)
    weights = {
        figure.value: weight
        for figure, weight in policy.weights.items()
        if weight > 0 and (slow or figure is not Figure.SLOW)
    }
    shown: dict[str, Any] = {}
    for name, weight in weights.items():
        events = counts.get("figures", {}).get(name, {})
        ours, theirs = events.get(CANARY, 0), events.get(CHAMPION, 0)
        bound = worse_by_at_most(ours, canary, theirs, champion)
        shown[name] = {
            "canary": round(ours / canary, 4) if canary else None,
            "champion": round(theirs / champion, 4) if champion else None,
            "canary_events": ours,
            "champion_events": theirs,
            "worse_by_at_most": None if bound is None else round(bound, 4),
            "log_evidence": round(log_evidence(Counts(canary, champion, ours, theirs), percent / 100), 4),
            "weight": weight,
        }
    evidence = combined({name: one["log_evidence"] for name, one in shown.items()}, weights)
    return {
        "conversations": {CANARY: canary, CHAMPION: champion},
        "needed": policy.canary_conversations,
        "figures": shown,
        "log_evidence": round(evidence, 4),
        "rolls_back_at": round(-math.log(policy.false_alarm), 4),
        **({} if slow else {"note": "too few answers before the trial to say what is slow: latency is not tested"}),
    }


def decide(figures: dict[str, Any], policy: Policy) -> tuple[Outcome, str | None]:
    """What the figures of a trial ask for, and why."""
    seen = figures["conversations"][CANARY]
    by_weight = sorted(
        figures["figures"].items(), key=lambda item: item[1]["log_evidence"] + math.log(item[1]["weight"]), reverse=True
    )
    if figures["log_evidence"] >= figures["rolls_back_at"]:
        name, worst = by_weight[0]
        return Outcome.ROLLED_BACK, (
            f"worse than the champion after {seen} conversations, mostly by {name}: "
            f"{_share(worst['canary'])} of its conversations, {_share(worst['champion'])} of the champion's "
            f"(evidence {math.exp(min(figures['log_evidence'], 50)):.3g}, the policy rolls back at "
            f"{1 / policy.false_alarm:.3g})"
        )
    if seen < policy.canary_conversations:
        return Outcome.RUNNING, None
    held = [
        f"{name} {_share(one['canary'])} against {_share(one['champion'])}, worse by "
        f"{_share(one['worse_by_at_most'])} at most"
        for name, one in figures["figures"].items()
        if one["worse_by_at_most"] is None or one["worse_by_at_most"] > policy.max_worse
    ]
    reason = f"{seen} conversations and no evidence that it is worse"
    if held:
        return Outcome.PASSED, f"{reason}, but not shown to be within {policy.max_worse}: {'; '.join(held)}"
    return (Outcome.PROMOTED if policy.promotion is Promotion.BY_RULE else Outcome.PASSED), reason


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"
