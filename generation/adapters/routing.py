"""From the name a caller asks for to one pinned version. Read from SQL at every request: a promote acts at once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sqlalchemy import select

from core.database import Database, ReadSession
from core.errors import NotFound
from core.settings import Settings
from core.tables import AdapterAlias, AdapterFamily, AdapterVersion
from core.types import AdapterRef, AdapterStatus

SERVICE = "tsumugi"
BASE_NAME = "base"
CHAMPION = "champion"
CANARY = "canary"


def reference(adapters_dir: Path, family: str, version: AdapterVersion) -> AdapterRef:
    """The engine's view of a version."""
    return AdapterRef(family, version.version, version.digest, str(adapters_dir / version.digest))


def in_canary(family_id: str, version_id: str, conversation_id: str, percent: int) -> bool:
    """Whether a conversation belongs to the share of a canary: the same answer for each of its turns."""
    digest = hashlib.sha256(f"{family_id}:{version_id}:{conversation_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < percent


class Router:
    """Resolves model names. None means the base, and only a name that says so, or an alias that is empty, gives it."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._adapters_dir = settings.adapters_dir
        self._default = settings.tuning.default_family

    def resolve(self, tenant_id: str, model: str | None, conversation_id: str | None = None) -> AdapterRef | None:
        """Pin a version for a request.

        model: `tsumugi`, `tsumugi:FAMILY`, `tsumugi:FAMILY@VERSION`, `tsumugi:base`, the same without `tsumugi:`, or
        None for the default. conversation_id: decides, for good, whether a canary answers this conversation.

        Raises:
            NotFound: no such family or version in this tenant, or one that was rejected or retired and serves nowhere.
        """
        name = (model or SERVICE).strip()
        wanted = "" if name == SERVICE else name.removeprefix(f"{SERVICE}:")
        if wanted == BASE_NAME:
            return None
        family_name, _, version_name = wanted.partition("@")
        with self._db.read() as session:
            family = session.scalar(
                select(AdapterFamily).where(
                    AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == (family_name or self._default)
                )
            )
            if family is None:
                if not wanted:
                    return None  # nothing was ever tuned: plain asks are answered by the base
                raise NotFound(f"no model {name!r}", code="model_not_found")
            if version_name or "@" in wanted:
                version = self._named(session, family, version_name)
            else:
                version = self._serving(session, family, conversation_id)
                if version is None:
                    return None
            if version is None:
                raise NotFound(f"no model {name!r}", code="model_not_found")
            return reference(self._adapters_dir, family.name, version)

    def model_names(self, tenant_id: str) -> list[str]:
        """Every name that `resolve` takes from this tenant, the default first."""
        names = [SERVICE, f"{SERVICE}:{BASE_NAME}"]
        with self._db.read() as session:
            families = session.scalars(
                select(AdapterFamily).where(AdapterFamily.tenant_id == tenant_id).order_by(AdapterFamily.name)
            ).all()
            for family in families:
                names.append(f"{SERVICE}:{family.name}")
                serving = self._aliased(session, family)
                names += [
                    f"{SERVICE}:{family.name}@{version.version}"
                    for version in session.scalars(
                        select(AdapterVersion)
                        .where(AdapterVersion.family_id == family.id)
                        .order_by(AdapterVersion.created_at, AdapterVersion.id)
                    )
                    if version.status == AdapterStatus.CANDIDATE or version.id in serving
                ]
        return names

    def _serving(
        self, session: ReadSession, family: AdapterFamily, conversation_id: str | None
    ) -> AdapterVersion | None:
        aliases = {
            alias.alias: alias
            for alias in session.scalars(select(AdapterAlias).where(AdapterAlias.family_id == family.id))
        }
        champion, canary = aliases.get(CHAMPION), aliases.get(CANARY)
        version_id = champion.version_id if champion else None
        if (
            canary is not None
            and canary.version_id is not None
            and conversation_id
            and in_canary(family.id, canary.version_id, conversation_id, canary.percent)
        ):
            version_id = canary.version_id
        return session.get(AdapterVersion, version_id) if version_id else None

    def _named(self, session: ReadSession, family: AdapterFamily, name: str) -> AdapterVersion | None:
        version = session.scalar(
            select(AdapterVersion).where(AdapterVersion.family_id == family.id, AdapterVersion.version == name)
        )
        if version is None or version.status == AdapterStatus.CANDIDATE:
            return version
        return version if version.id in self._aliased(session, family) else None

    @staticmethod
    def _aliased(session: ReadSession, family: AdapterFamily) -> set[str | None]:
        return set(session.scalars(select(AdapterAlias.version_id).where(AdapterAlias.family_id == family.id)))
