"""Moves of the aliases that say which version serves: promote, shadow, rollback.

Each loads and proves the target in the engine first, then moves the alias by compare-and-swap, with its history and
audit rows in the same transaction. What could not be loaded is in the history as well, with the reason; its alias did
not move.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from core import audit
from core.database import Database, ReadSession, WriteSession
from core.errors import Conflict, InvalidInput, TsumugiError, Unavailable
from core.ports import Engine
from core.settings import Settings
from core.tables import AdapterAlias, AdapterFamily, AdapterVersion, AliasEvent
from core.tables.base import utc_now
from core.types import AdapterRef, AdapterStatus
from generation.adapters.history import REFUSED, champion_stack
from generation.adapters.manifest import Fingerprint
from generation.adapters.routing import BASE_NAME, CANARY, CHAMPION, SHADOW, Router, reference
from generation.adapters.versions import find_family, find_version, require_servable, served_before

log = structlog.get_logger(__name__)


@runtime_checkable
class AdapterHost(Protocol):
    """What an engine with adapters in its own memory can do beyond `core.ports.Engine`."""

    def hold_adapters(self, adapters: Sequence[AdapterRef]) -> None:
        """Prefer to keep these in memory."""
        ...

    def fingerprint_of(self, adapter: AdapterRef) -> Fingerprint:
        """Load if need be; the fingerprint measured at that load."""
        ...


class Mover(Protocol):
    """Who moves an alias: a caller, or the service itself by the policy of a family."""

    @property
    def tenant_id(self) -> str:
        """Whose families."""
        ...

    @property
    def actor(self) -> str:
        """As history and audit name it."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyMover:
    """The service, acting by a family's policy."""

    tenant_id: str
    actor: str = "system:policy"


@dataclass(frozen=True, slots=True)
class AliasMove:
    """What a promote or rollback did. Versions are names such as 'v3'; None is the base."""

    from_version: str | None
    to_version: str | None
    alias: str
    effective_ms: float
    """From the call to the moment when a new request would be answered by the target."""


class AliasMover:
    """Aliases of all tenants; each method takes the tenant, and finds nothing of another."""

    def __init__(self, db: Database, settings: Settings, engine: Engine | None) -> None:
        self._db = db
        self._settings = settings
        self._dir = settings.adapters_dir
        self._engine = engine
        self._router = Router(db, settings)

    def promote(
        self,
        principal: Mover,
        family: str,
        version: str,
        *,
        force: bool = False,
        reason: str | None = None,
        canary_percent: int | None = None,
        expected_revision: int | None = None,
        request_id: str | None = None,
    ) -> AliasMove:
        """Make a version the champion, or the canary for a share of conversations.

        force: takes a version that the gate rejected or never saw; needs a reason. expected_revision: of the canary,
        when the move rests on what its trial showed.

        Raises:
            GateFailed: it needs `force`.
            Conflict: it is retired, or the alias moved meanwhile (`alias_moved`).
            AdapterRefused: the engine cannot load it; the old champion serves on.
        """
        started = time.perf_counter()
        if canary_percent is not None and not 1 <= canary_percent <= 99:
            raise InvalidInput("a canary takes 1 to 99 percent of conversations", code="invalid_canary_percent")
        alias = CHAMPION if canary_percent is None else CANARY
        with self._db.read() as session:
            owner = find_family(session, principal.tenant_id, family)
            target = find_version(session, owner, version)
            state = self._state(session, owner)
        _require_unmoved(owner, state, expected_revision)
        require_servable(target, force=force, reason=reason)
        return self._move(
            principal, owner, state, target, alias=alias, action="promote", reason=reason, forced=force,
            percent=canary_percent or 100, started=started, request_id=request_id,
        )  # fmt: skip

    def shadow(
        self,
        principal: Mover,
        family: str,
        version: str | None,
        *,
        percent: int = 100,
        force: bool = False,
        reason: str | None = None,
        request_id: str | None = None,
    ) -> AliasMove:
        """Let a version answer beside what serves, for a share of conversations, unseen; None ends that.

        Raises:
            GateFailed, Conflict, AdapterRefused: as for `promote`.
        """
        started = time.perf_counter()
        if not 1 <= percent <= 100:
            raise InvalidInput("a shadow takes 1 to 100 percent of conversations", code="invalid_canary_percent")
        with self._db.read() as session:
            owner = find_family(session, principal.tenant_id, family)
            target = find_version(session, owner, version) if version is not None else None
            state = self._state(session, owner)
        if target is not None:
            require_servable(target, force=force, reason=reason)
        return self._move(
            principal, owner, state, target, alias=SHADOW, action="promote" if target else "rollback", reason=reason,
            forced=force, percent=percent, started=started, request_id=request_id,
        )  # fmt: skip

    def rollback(
        self,
        principal: Mover,
        family: str,
        to: str | None = None,
        reason: str | None = None,
        *,
        expected_revision: int | None = None,
        request_id: str | None = None,
    ) -> AliasMove:
        """Go back: to the version `to` ('base' for none), or one step.

        expected_revision: of the canary, when the move rests on what its trial showed. One step ends a running canary;
        with none running, it goes to the version that was champion before the current
        one was promoted. Each further step goes further back, and the last one is the base.

        Raises:
            NotFound: there is no such version.
            Conflict: the base serves already (`nothing_to_roll_back`), `to` never was the champion (`never_served`) or
                is retired (`adapter_retired`), or the alias moved meanwhile (`alias_moved`).
            AdapterRefused: the target cannot be loaded; name another one, or 'base', which always can.
        """
        started = time.perf_counter()
        with self._db.read() as session:
            owner = find_family(session, principal.tenant_id, family)
            state = self._state(session, owner)
            _require_unmoved(owner, state, expected_revision)
            alias = CANARY if to is None and state.canary is not None else CHAMPION
            name = self._rollback_target(session, owner, state, alias, to)
            target = find_version(session, owner, name) if name is not None else None
        return self._move(
            principal, owner, state, target, alias=alias, action="rollback", reason=reason, forced=False,
            percent=100, started=started, request_id=request_id,
        )  # fmt: skip

    def _move(
        self,
        principal: Mover,
        owner: AdapterFamily,
        state: _State,
        target: AdapterVersion | None,
        *,
        alias: str,
        action: str,
        reason: str | None,
        forced: bool,
        percent: int,
        started: float,
        request_id: str | None,
    ) -> AliasMove:
        before = {CHAMPION: state.champion, CANARY: state.canary, SHADOW: state.shadow}[alias]
        ends_canary = action == "rollback" and alias == CANARY
        refs = [reference(self._dir, owner.name, version) for version in (state.champion, target) if version]
        self._hold(refs)
        # What a canary ends with serves already: nothing is loaded, so any process may do it, and nothing can stop it.
        if target is not None and not ends_canary:
            if self._engine is None:
                raise Unavailable("this process has no engine to load an adapter into", retryable=False)
            try:
                self._engine.ensure_adapter(refs[-1])
            except TsumugiError as error:
                self._note_refusal(principal, owner, state, target, alias, forced, f"{error.detail} ({error.code})")
                raise
        after = target
        if ends_canary:
            after, target = state.champion, None  # the canary's conversations fall back to the champion
        from_name, to_name = before.version if before else None, after.version if after else None
        with self._db.write() as session:
            revision = _swap(session, owner, alias, state.revisions.get(alias), target, percent)
            event = AliasEvent(
                tenant_id=owner.tenant_id, family_id=owner.id, alias=alias, action=action, from_version=from_name,
                to_version=to_name, reason=reason, forced=forced, actor=principal.actor, revision=revision,
            )  # fmt: skip
            session.add(event)
            if alias == CHAMPION and state.canary is not None:
                _swap(session, owner, CANARY, state.revisions.get(CANARY), None, 100)
            audit.record(
                session,
                tenant_id=owner.tenant_id,
                actor=principal.actor,
                action=f"adapter.{action}",
                object_id=owner.name,
                detail={
                    "alias": alias, "from": from_name, "to": to_name, "reason": reason, "forced": forced,
                    "percent": percent,
                },
                request_id=request_id,
            )  # fmt: skip
        if alias == CHAMPION:
            self._await_effect(owner, after)
        effective_ms = (time.perf_counter() - started) * 1000
        with self._db.write() as session:
            session.execute(update(AliasEvent).where(AliasEvent.id == event.id).values(effective_ms=effective_ms))
        log.info(f"adapter.{action}", family=owner.name, alias=alias, to=to_name, effective_ms=round(effective_ms, 1))
        return AliasMove(from_name, to_name, alias, effective_ms)

    def _note_refusal(
        self,
        principal: Mover,
        owner: AdapterFamily,
        state: _State,
        target: AdapterVersion,
        alias: str,
        forced: bool,
        why: str,
    ) -> None:
        """Put into the history that the target could not be loaded everywhere: the alias stays where it is."""
        before = {CHAMPION: state.champion, CANARY: state.canary, SHADOW: state.shadow}[alias]
        with self._db.write() as session:
            session.add(
                AliasEvent(
                    tenant_id=owner.tenant_id, family_id=owner.id, alias=alias, action=REFUSED,
                    from_version=before.version if before else None, to_version=target.version, reason=why[:2000],
                    forced=forced, actor=principal.actor, revision=state.revisions.get(alias, 0),
                )
            )  # fmt: skip
        log.warning("adapter.refused", family=owner.name, alias=alias, version=target.version, reason=why)

    def _await_effect(self, owner: AdapterFamily, target: AdapterVersion | None) -> None:
        """Ask as a request would, until the answer is the target or somebody else has moved the alias on."""
        resolved = self._router.resolve(owner.tenant_id, owner.name, None)
        if (resolved.version if resolved else None) != (target.version if target else None):
            log.warning("adapter.moved_on", family=owner.name)

    def _rollback_target(
        self, session: ReadSession, owner: AdapterFamily, state: _State, alias: str, to: str | None
    ) -> str | None:
        if to is not None:
            return None if to == BASE_NAME else served_before(session, owner, to)
        if alias == CANARY:
            return state.champion.version if state.champion else None
        if state.champion is None:
            raise Conflict(f"'{owner.name}' is answered by the base already", code="nothing_to_roll_back")
        retired = set(
            session.scalars(
                select(AdapterVersion.version).where(
                    AdapterVersion.family_id == owner.id, AdapterVersion.status == AdapterStatus.RETIRED
                )
            )
        )
        earlier = [name for name in champion_stack(session, owner.id, CHAMPION)[:-1] if name not in retired]
        return earlier[-1] if earlier else None

    def _state(self, session: ReadSession, owner: AdapterFamily) -> _State:
        aliases = {
            alias.alias: alias
            for alias in session.scalars(select(AdapterAlias).where(AdapterAlias.family_id == owner.id))
        }
        serving = {
            name: session.get_one(AdapterVersion, alias.version_id)
            for name, alias in aliases.items()
            if alias.version_id is not None
        }
        return _State(
            champion=serving.get(CHAMPION),
            canary=serving.get(CANARY),
            shadow=serving.get(SHADOW),
            revisions={name: alias.revision for name, alias in aliases.items()},
        )

    def _hold(self, adapters: Sequence[AdapterRef]) -> None:
        if isinstance(self._engine, AdapterHost):
            self._engine.hold_adapters(adapters)


@dataclass(frozen=True, slots=True)
class _State:
    """The aliases of a family as one snapshot saw them."""

    champion: AdapterVersion | None
    canary: AdapterVersion | None
    shadow: AdapterVersion | None
    revisions: Mapping[str, int]


def _require_unmoved(owner: AdapterFamily, state: _State, expected_revision: int | None) -> None:
    if expected_revision is not None and state.revisions.get(CANARY) != expected_revision:
        raise Conflict(f"the canary of '{owner.name}' was moved by somebody else; look again", code="alias_moved")


def _swap(
    session: WriteSession,
    family: AdapterFamily,
    alias: str,
    seen: int | None,
    version: AdapterVersion | None,
    percent: int,
) -> int:
    """Compare-and-swap of an alias from the revision that was seen; returns the new revision."""
    moved = Conflict(f"the {alias} of '{family.name}' was moved by somebody else; look again", code="alias_moved")
    values = {"version_id": version.id if version else None, "percent": percent, "updated_at": utc_now()}
    if seen is None:
        session.add(AdapterAlias(family_id=family.id, alias=alias, tenant_id=family.tenant_id, revision=1, **values))
        try:
            session.flush()
        except IntegrityError as error:
            raise moved from error
        return 1
    changed = session.execute(
        update(AdapterAlias)
        .where(AdapterAlias.family_id == family.id, AdapterAlias.alias == alias, AdapterAlias.revision == seen)
        .values(**values, revision=seen + 1)
    )
    if changed.rowcount != 1:  # type: ignore[attr-defined]
        raise moved
    return seen + 1
