"""Adapter versions and the aliases that say which one serves.

A promote or rollback loads and proves the target in the engine first, then moves the alias by compare-and-swap, with
its history and audit rows in the same transaction. The champion and the one before it are held in memory, so that a
rollback reads nothing from disk.

In a process without an engine (the training worker) versions are registered only; a fingerprint that their manifest
lacks is then measured in a child process.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from core import audit
from core.access import Principal
from core.database import Database, ReadSession, WriteSession, lock_name
from core.errors import AdapterRefused, Conflict, GateFailed, InvalidInput, NotFound, TsumugiError, Unavailable
from core.ports import Engine
from core.settings import Settings
from core.tables import AdapterAlias, AdapterFamily, AdapterVersion, AliasEvent
from core.tables.base import utc_now
from core.types import AdapterRef, AdapterStatus
from generation.adapters import store
from generation.adapters.archive import unpack
from generation.adapters.checks import check_config, check_servable
from generation.adapters.history import champion_stack
from generation.adapters.manifest import (
    MANIFEST_FILE,
    Fingerprint,
    Manifest,
    build_manifest,
    read_config,
    verify,
    write_manifest,
)
from generation.adapters.routing import BASE_NAME, CANARY, CHAMPION, SHADOW, Router, reference
from generation.models import BaseModelInfo, read_card

log = structlog.get_logger(__name__)

_FAMILY = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
_MEASURE_TIMEOUT_S = 600
_EFFECTIVE_TIMEOUT_S = 10.0


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


class AdapterRegistry:
    """Versions and aliases of all tenants; each method takes the tenant, and finds nothing of another."""

    def __init__(
        self, db: Database, settings: Settings, engine: Engine | None, *, base: BaseModelInfo | None = None
    ) -> None:
        """base: the model adapters are checked against; by default the prepared one that a manifest names."""
        self._db = db
        self._dir = settings.adapters_dir
        self._models_dir = settings.models_dir
        self._engine = engine
        self._base = base
        self._router = Router(db, settings)
        self._room = settings.generation.max_adapters

    def register_version(
        self,
        tenant_id: str,
        family: str,
        folder: Path,
        *,
        status: AdapterStatus,
        reasons: Sequence[str] = (),
        gate_report: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        manifest: Manifest,
        source: str = "run",
    ) -> AdapterVersion:
        """Store an immutable version of a family, which is made if need be.

        The same content again in the same family is the version that is there, unchanged: a worker that died after
        registering may call again.

        Raises:
            AdapterRefused: the engine could not serve it, or it does not match its manifest.
        """
        check_family_name(family)
        with self._db.read() as session:
            known = self._known(session, tenant_id, family, manifest.content_digest)
            if known is not None and store.is_whole(self._dir / known.digest, known.digest):
                return known
        base = self._base_for(manifest)
        if base is not None:
            check_servable(folder, base.path)
        else:
            check_config(read_config(folder))
        with store.staged(self._dir, folder, manifest) as (work, copied):
            fitted = copied
            if fitted.fingerprint is None:
                fitted = copied.model_copy(update={"fingerprint": self._measure(work, copied, base)})
                write_manifest(work, fitted)
            store.publish(self._dir, work, fitted.content_digest)
        with self._db.write() as session:
            found = self._known(session, tenant_id, family, fitted.content_digest)
            if found is not None:
                return found
            owner = _family_for_update(session, tenant_id, family)
            owner.version_counter += 1
            version = AdapterVersion(
                tenant_id=tenant_id,
                family_id=owner.id,
                version=f"v{owner.version_counter}",
                digest=fitted.content_digest,
                status=status.value,
                reasons=list(reasons),
                manifest=fitted.model_dump(mode="json"),
                gate_report=dict(gate_report) if gate_report is not None else None,
                run_id=run_id,
                source=source,
            )
            session.add(version)
            session.flush()
        log.info("adapter.registered", family=family, version=version.version, status=status.value)
        return version

    def import_archive(
        self, principal: Principal, family: str, data: bytes, *, request_id: str | None = None
    ) -> AdapterVersion:
        """Take in a PEFT adapter from a .tar, .tar.gz or .zip.

        A manifest in the archive must match its files and this base. Without one, the shapes must fit the base and the
        effect must not be nothing. Either way it passed no gate here: it is a candidate that needs `force` to serve.

        Raises:
            AdapterRefused, UnsupportedFormat, TooLarge: see `archive.unpack`, `manifest.verify`, `checks`.
        """
        check_family_name(family)
        base = self._base
        if base is None:
            raise Unavailable("this process has no base model to check an adapter against", retryable=False)
        self._dir.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=self._dir, prefix=".import-"))
        try:
            unpack(data, work)
            check_servable(work, base.path)
            notes: dict[str, Any] = {"imported_by": principal.actor}
            if (work / MANIFEST_FILE).is_file():
                theirs = verify(work, base)
                notes["imported_manifest"] = theirs.model_dump(mode="json", exclude={"fingerprint", "files", "notes"})
            manifest = build_manifest(work, base, notes=notes)
            version = self.register_version(
                principal.tenant_id,
                family,
                work,
                status=AdapterStatus.CANDIDATE,
                reasons=["imported: passed no gate here"],
                manifest=manifest,
                source="import",
            )
        finally:
            shutil.rmtree(work, ignore_errors=True)
        with self._db.write() as session:
            audit.record(
                session,
                tenant_id=principal.tenant_id,
                actor=principal.actor,
                action="adapter.import",
                object_id=f"{family}@{version.version}",
                detail={"digest": version.digest},
                request_id=request_id,
            )
        return version

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
            owner = _find_family(session, principal.tenant_id, family)
            target = _find_version(session, owner, version)
            state = self._state(session, owner)
        _require_unmoved(owner, state, expected_revision)
        _require_servable(target, force=force, reason=reason)
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
            owner = _find_family(session, principal.tenant_id, family)
            target = _find_version(session, owner, version) if version is not None else None
            state = self._state(session, owner)
        if target is not None:
            _require_servable(target, force=force, reason=reason)
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
            Conflict: the base serves already (`nothing_to_roll_back`), or the alias moved meanwhile (`alias_moved`).
            AdapterRefused: the target cannot be loaded; name another one, or 'base', which always can.
        """
        started = time.perf_counter()
        with self._db.read() as session:
            owner = _find_family(session, principal.tenant_id, family)
            state = self._state(session, owner)
            _require_unmoved(owner, state, expected_revision)
            alias = CANARY if to is None and state.canary is not None else CHAMPION
            name = self._rollback_target(session, owner, state, alias, to)
            target = _find_version(session, owner, name) if name is not None else None
        return self._move(
            principal, owner, state, target, alias=alias, action="rollback", reason=reason, forced=False,
            percent=100, started=started, request_id=request_id,
        )  # fmt: skip

    def warm(self) -> None:
        """Load what serves, and what a rollback would go to, newest families first, as far as memory goes."""
        if self._engine is None:
            return
        with self._db.read() as session:
            wanted: list[AdapterRef] = []
            aliases = session.scalars(
                select(AdapterAlias).where(AdapterAlias.alias == CHAMPION).order_by(AdapterAlias.updated_at.desc())
            )
            for alias in aliases:
                owner = session.get_one(AdapterFamily, alias.family_id)
                for name in reversed(champion_stack(session, owner.id, CHAMPION)[-2:]):
                    if name is not None:
                        wanted.append(reference(self._dir, owner.name, _find_version(session, owner, name)))
        for adapter in wanted[: self._room]:
            try:
                self._engine.ensure_adapter(adapter)
            except TsumugiError as error:
                log.warning("adapter.not_loaded", adapter=adapter.stamp, code=error.code, detail=error.detail)
        self._hold(wanted[: self._room])

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
            self._engine.ensure_adapter(refs[-1])
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

    def _await_effect(self, owner: AdapterFamily, target: AdapterVersion | None) -> None:
        """Ask as a request would, until the answer is the target or somebody else has moved the alias on."""
        resolved = self._router.resolve(owner.tenant_id, owner.name, None)
        if (resolved.version if resolved else None) != (target.version if target else None):
            log.warning("adapter.moved_on", family=owner.name)

    def _rollback_target(
        self, session: ReadSession, owner: AdapterFamily, state: _State, alias: str, to: str | None
    ) -> str | None:
        if to is not None:
            return None if to == BASE_NAME else to
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

    @staticmethod
    def _known(session: ReadSession | WriteSession, tenant_id: str, family: str, digest: str) -> AdapterVersion | None:
        found: AdapterVersion | None = session.scalar(
            select(AdapterVersion)
            .join(AdapterFamily, AdapterFamily.id == AdapterVersion.family_id)
            .where(AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == family)
            .where(AdapterVersion.digest == digest)
        )
        return found

    def _base_for(self, manifest: Manifest) -> BaseModelInfo | None:
        if self._base is not None:
            return self._base
        folder = self._models_dir / manifest.base_digest
        return read_card(folder) if folder.is_dir() else None

    def _measure(self, work: Path, manifest: Manifest, base: BaseModelInfo | None) -> Fingerprint:
        if isinstance(self._engine, AdapterHost):
            return self._engine.fingerprint_of(AdapterRef("staged", "v0", manifest.content_digest, str(work)))
        if base is None:
            raise AdapterRefused("no fingerprint, and no base here to make one", code="adapter_bad_manifest")
        done = subprocess.run(  # noqa: S603 - our own module, on paths of our own
            [sys.executable, "-m", "generation.adapters.fingerprint", str(base.path), str(work)],
            capture_output=True, text=True, timeout=_MEASURE_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            code, _, detail = done.stderr.strip().rpartition("\n")[2].partition(": ")
            known = code.startswith("adapter_")
            raise AdapterRefused(detail or "fingerprinting failed", code=code if known else "adapter_refused")
        return Fingerprint.model_validate_json(done.stdout)

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


def check_family_name(family: str) -> None:
    """Raise InvalidInput unless the name can be part of a model name and is not taken by the service itself."""
    if not _FAMILY.match(family) or family == BASE_NAME:
        raise InvalidInput(
            f"'{family}' cannot name a family: lower-case letters, digits, '-' and '_', at most 63, and not 'base'",
            code="invalid_family",
        )


def _find_family(session: ReadSession, tenant_id: str, name: str) -> AdapterFamily:
    family = session.scalar(
        select(AdapterFamily).where(AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == name)
    )
    if family is None:
        raise NotFound(f"no adapter family '{name}'")
    return family


def _find_version(session: ReadSession, family: AdapterFamily, name: str) -> AdapterVersion:
    version = session.scalar(
        select(AdapterVersion).where(AdapterVersion.family_id == family.id, AdapterVersion.version == name)
    )
    if version is None:
        raise NotFound(f"no version '{name}' in the adapter family '{family.name}'")
    return version


def _family_for_update(session: WriteSession, tenant_id: str, name: str) -> AdapterFamily:
    lock_name(session, f"family:{tenant_id}:{name}")  # it may not have a row yet
    family = session.scalar(
        select(AdapterFamily).where(AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == name).with_for_update()
    )
    if family is None:
        family = AdapterFamily(tenant_id=tenant_id, name=name)
        session.add(family)
        session.flush()
    return family


def _require_unmoved(owner: AdapterFamily, state: _State, expected_revision: int | None) -> None:
    if expected_revision is not None and state.revisions.get(CANARY) != expected_revision:
        raise Conflict(f"the canary of '{owner.name}' was moved by somebody else; look again", code="alias_moved")


def _require_servable(version: AdapterVersion, *, force: bool, reason: str | None) -> None:
    if version.status == AdapterStatus.RETIRED:
        raise Conflict(f"{version.version} is retired", code="adapter_retired", extra={"reasons": version.reasons})
    ungated = version.source == "import" and version.gate_report is None
    if version.status == AdapterStatus.REJECTED or ungated:
        if not force:
            what = "passed no gate here" if ungated else "was rejected by the gate"
            raise GateFailed(
                f"{version.version} {what}; promoting it needs `force` and a `reason`",
                code="gate_failed",
                extra={"reasons": version.reasons},
            )
        if not (reason or "").strip():
            raise InvalidInput("`force` needs a `reason`", code="reason_required")


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
