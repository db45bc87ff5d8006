"""From the name a caller asks for to one pinned version. Read from SQL at every request: a promote acts at once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from core.access import Principal
from core.database import Database, ReadSession
from core.errors import NotFound
from core.settings import Settings
from core.tables import AdapterAlias, AdapterFamily, AdapterVersion
from core.types import AdapterRef, AdapterStatus, Scope
from generation.canary.draw import Unit, unit_of
from generation.canary.policy import policy_of

SERVICE = "tsumugi"
BASE_NAME = "base"
CHAMPION = "champion"
CANARY = "canary"
SHADOW = "shadow"
"""Answers beside what serves; its answers are scored and never sent."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `adapter` is None for the base."""

    adapter: AdapterRef | None
    version_id: str | None = None
    family_id: str | None = None
    """Set where an alias of the family decided, not where a version or the base was named."""
    arm: str | None = None
    """`canary` or `champion` while a canary runs."""
    unit: Unit | None = None
    """What was drawn for that arm."""
    shadow: AdapterRef | None = None
    shadow_version_id: str | None = None

    @property
    def trial(self) -> dict[str, Any]:
        """The stamp of an answer given while a canary runs: its arm, and by what it was drawn. Else empty."""
        if self.arm is None or self.unit is None:
            return {}
        return {"trial": {"arm": self.arm, "drawn_by": self.unit.by.value, "unit": self.unit.id}}


BASE_ROUTE = Route(None)


def reference(adapters_dir: Path, family: str, version: AdapterVersion) -> AdapterRef:
    """The engine's view of a version."""
    return AdapterRef(family, version.version, version.digest, str(adapters_dir / version.digest))


def in_canary(family_id: str, version_id: str, unit_id: str, percent: int) -> bool:
    """Whether a conversation, user or request belongs to the share of a canary: the same answer each time."""
    digest = hashlib.sha256(f"{family_id}:{version_id}:{unit_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % 100 < percent


class Router:
    """Resolves model names. None means the base, and only a name that says so, or an alias that is empty, gives it."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._adapters_dir = settings.adapters_dir
        self._default = settings.tuning.default_family

    def resolve(self, tenant_id: str, model: str | None, conversation_id: str | None = None) -> AdapterRef | None:
        """The version that a member of every group would be served; see `route`."""
        return self._route(tenant_id, None, model, unit_of(tenant_id, conversation_id)).adapter

    def route(
        self,
        principal: Principal,
        model: str | None,
        conversation_id: str | None = None,
        *,
        user: str | None = None,
        request_id: str | None = None,
    ) -> Route:
        """Pin a version for a request.

        model: `tsumugi`, `tsumugi:FAMILY`, `tsumugi:FAMILY@VERSION`, `tsumugi:base`, the same without `tsumugi:`, or
        None for the default. conversation_id: decides, for good, whether a canary answers this conversation; without
        one `user` decides for all that this user asks, and else `request_id` for this request alone. A family that
        serves other groups only does not exist for the caller; unnamed, the base answers instead of it.

        Raises:
            NotFound: no such family or version in this tenant, or one that was rejected or retired and serves nowhere.
        """
        groups = None if Scope.ADMIN in principal.scopes else principal.groups
        unit = unit_of(principal.tenant_id, conversation_id, user, request_id)
        return self._route(principal.tenant_id, groups, model, unit)

    def _route(self, tenant_id: str, groups: frozenset[str] | None, model: str | None, unit: Unit | None) -> Route:
        name = (model or SERVICE).strip()
        wanted = "" if name == SERVICE else name.removeprefix(f"{SERVICE}:")
        if wanted == BASE_NAME:
            return BASE_ROUTE
        family_name, _, version_name = wanted.partition("@")
        with self._db.read() as session:
            family = session.scalar(
                select(AdapterFamily).where(
                    AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == (family_name or self._default)
                )
            )
            if family is None or not _serves(session, family, groups):
                if not wanted:
                    return BASE_ROUTE  # nothing was ever tuned for the caller: plain asks are answered by the base
                raise NotFound(f"no model {name!r}", code="model_not_found")
            if version_name or "@" in wanted:
                version = self._named(session, family, version_name)
                if version is None or not _may_be_served(version, groups):
                    raise NotFound(f"no model {name!r}", code="model_not_found")
                return Route(reference(self._adapters_dir, family.name, version), version.id)
            route, chosen = self._serving(session, family, unit)
            return route if chosen is None or _may_be_served(chosen, groups) else BASE_ROUTE

    def model_names(self, principal: Principal) -> list[str]:
        """Every name that `route` takes from this caller, the default first."""
        tenant_id = principal.tenant_id
        groups = None if Scope.ADMIN in principal.scopes else principal.groups
        names = [SERVICE, f"{SERVICE}:{BASE_NAME}"]
        with self._db.read() as session:
            families = session.scalars(
                select(AdapterFamily).where(AdapterFamily.tenant_id == tenant_id).order_by(AdapterFamily.name)
            ).all()
            for family in families:
                if not _serves(session, family, groups):
                    continue
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
        self, session: ReadSession, family: AdapterFamily, unit: Unit | None
    ) -> tuple[Route, AdapterVersion | None]:
        aliases: Mapping[str, AdapterAlias] = {
            alias.alias: alias
            for alias in session.scalars(select(AdapterAlias).where(AdapterAlias.family_id == family.id))
        }
        champion, canary, shadow = (aliases.get(name) for name in (CHAMPION, CANARY, SHADOW))
        version_id, arm = champion.version_id if champion else None, None
        if canary is not None and canary.version_id is not None and unit is not None:
            arm = CHAMPION
            if in_canary(family.id, canary.version_id, unit.id, canary.percent):
                version_id, arm = canary.version_id, CANARY
        version = session.get(AdapterVersion, version_id) if version_id else None
        beside = None
        if (
            shadow is not None
            and shadow.version_id is not None
            and shadow.version_id != version_id
            and unit is not None
            and in_canary(family.id, shadow.version_id, unit.id, shadow.percent)
        ):
            beside = session.get(AdapterVersion, shadow.version_id)
        route = Route(
            adapter=reference(self._adapters_dir, family.name, version) if version else None,
            version_id=version_id,
            family_id=family.id,
            arm=arm,
            unit=unit if arm is not None else None,
            shadow=reference(self._adapters_dir, family.name, beside) if beside else None,
            shadow_version_id=beside.id if beside else None,
        )
        return route, version

    def _named(self, session: ReadSession, family: AdapterFamily, name: str) -> AdapterVersion | None:
        version = session.scalar(
            select(AdapterVersion).where(AdapterVersion.family_id == family.id, AdapterVersion.version == name)
        )
        if version is None or version.status == AdapterStatus.CANDIDATE:
            return version
        return version if version.id in self._aliased(session, family) else None

    @staticmethod
    def _aliased(session: ReadSession, family: AdapterFamily) -> set[str | None]:
        return set(
            session.scalars(
                select(AdapterAlias.version_id).where(
                    AdapterAlias.family_id == family.id, AdapterAlias.alias.in_((CHAMPION, CANARY))
                )
            )
        )


def _serves(session: ReadSession, family: AdapterFamily, groups: frozenset[str] | None) -> bool:
    """Whether the family's policy lets somebody of these groups (None: of all) be served by it."""
    audience = policy_of(session, family.id).groups
    return audience is None or groups is None or not groups.isdisjoint(audience)


def _may_be_served(version: AdapterVersion, groups: frozenset[str] | None) -> bool:
    """Whether somebody of these groups (None: of all) may read every row that the version was trained on.

    Kept with the version and not with the family: a policy opened later does not open what was learnt before.
    """
    audience = (version.manifest.get("notes") or {}).get("audience")
    return audience is None or groups is None or not groups.isdisjoint(audience)
