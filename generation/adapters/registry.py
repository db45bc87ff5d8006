"""Adapter versions: taken in, checked, stored by content. The aliases over them are moved in `moves`.

The champion and the one before it are held in memory, so that a rollback reads nothing from disk.

In a process without an engine (the training worker) versions are registered only; a fingerprint that their manifest
lacks is then measured in a child process.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select

from core import audit
from core.access import Principal
from core.archives import Unpack
from core.archives import unpack as unpack_here
from core.contents import Content
from core.database import Database, ReadSession, WriteSession, lock_name
from core.errors import AdapterRefused, InvalidInput, TsumugiError, Unavailable
from core.ports import Engine
from core.settings import Settings
from core.tables import AdapterAlias, AdapterFamily, AdapterVersion
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
from generation.adapters.moves import AdapterHost, AliasMover
from generation.adapters.routing import BASE_NAME, CHAMPION, reference
from generation.adapters.versions import find_version
from generation.engines.capability import refusal_of
from generation.models import BaseModelInfo, read_card

log = structlog.get_logger(__name__)

_FAMILY = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
_UNPROVEN = ("base weights", "tokenizer", "chat template", "prompt version")
"""What only a manifest can say of an imported adapter."""
_MEASURE_TIMEOUT_S = 600
_EFFECTIVE_TIMEOUT_S = 10.0


class AdapterRegistry(AliasMover):
    """Versions and aliases of all tenants; each method takes the tenant, and finds nothing of another."""

    def __init__(
        self, db: Database, settings: Settings, engine: Engine | None, *, base: BaseModelInfo | None = None
    ) -> None:
        """base: the model adapters are checked against; by default the prepared one that a manifest names."""
        super().__init__(db, settings, engine)
        self._models_dir = settings.models_dir
        self._base = base
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
        self.check_engine(read_config(folder))
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

    def check_engine(self, config: Mapping[str, Any]) -> None:
        """Refuse an adapter that the configured engine cannot load, before anything is stored.

        Raises:
            AdapterRefused: `adapter_unsupported`; the detail names the engine and what it lacks.
        """
        reason = refusal_of(self._settings, config)
        if reason is not None:
            raise AdapterRefused(reason, code="adapter_unsupported")

    def import_archive(
        self,
        principal: Principal,
        family: str,
        archive: Content,
        *,
        take: Unpack = unpack_here,
        request_id: str | None = None,
    ) -> AdapterVersion:
        """Take in a PEFT adapter from a .tar, .tar.gz or .zip.

        A manifest in the archive must match its files and this base. Without one, the shapes must fit the base and the
        effect must not be nothing; what it was trained on is then unproven, which its reasons and its manifest's notes
        say, and the digests beside them are those of the base here. Either way it passed no gate here: it is a
        candidate that needs `force` to serve.
        Files of the archive that are no part of the adapter are named in the manifest's notes (`left_out`).

        take: takes archives apart; services do so in a child process with limits.

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
            left_out = unpack(archive, work, take)
            check_servable(work, base.path)
            notes: dict[str, Any] = {"imported_by": principal.actor, "left_out": left_out}
            reasons = ["imported: passed no gate here"]
            if (work / MANIFEST_FILE).is_file():
                theirs = verify(work, base)
                notes["imported_manifest"] = theirs.model_dump(mode="json", exclude={"fingerprint", "files", "notes"})
            else:
                notes["unproven"] = list(_UNPROVEN)
                reasons.append(
                    f"imported without a manifest: nothing proves the {', '.join(_UNPROVEN)} it was made for"
                )
            manifest = build_manifest(work, base, notes=notes)
            version = self.register_version(
                principal.tenant_id,
                family,
                work,
                status=AdapterStatus.CANDIDATE,
                reasons=reasons,
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
                detail={"digest": version.digest, "left_out": left_out},
                request_id=request_id,
            )
        return version

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
                        wanted.append(reference(self._dir, owner.name, find_version(session, owner, name)))
        for adapter in wanted[: self._room]:
            try:
                self._engine.ensure_adapter(adapter)
            except TsumugiError as error:
                log.warning("adapter.not_loaded", adapter=adapter.stamp, code=error.code, detail=error.detail)
        self._hold(wanted[: self._room])

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


def check_family_name(family: str) -> None:
    """Raise InvalidInput unless the name can be part of a model name and is not taken by the service itself."""
    if not _FAMILY.match(family) or family == BASE_NAME:
        raise InvalidInput(
            f"'{family}' cannot name a family: lower-case letters, digits, '-' and '_', at most 63, and not 'base'",
            code="invalid_family",
        )


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
