"""Versions looked up by name, and what each may do: serve, be gone back to."""

from __future__ import annotations

from sqlalchemy import select

from core.database import ReadSession
from core.errors import Conflict, GateFailed, InvalidInput, NotFound
from core.tables import AdapterFamily, AdapterVersion
from core.types import AdapterStatus
from generation.adapters.history import has_served
from generation.adapters.routing import CHAMPION


def find_family(session: ReadSession, tenant_id: str, name: str) -> AdapterFamily:
    """A family of a tenant; raises NotFound."""
    family = session.scalar(
        select(AdapterFamily).where(AdapterFamily.tenant_id == tenant_id, AdapterFamily.name == name)
    )
    if family is None:
        raise NotFound(f"no adapter family '{name}'")
    return family


def find_version(session: ReadSession, family: AdapterFamily, name: str) -> AdapterVersion:
    """A version of a family; raises NotFound."""
    version = session.scalar(
        select(AdapterVersion).where(AdapterVersion.family_id == family.id, AdapterVersion.version == name)
    )
    if version is None:
        raise NotFound(f"no version '{name}' in the adapter family '{family.name}'")
    return version


def served_before(session: ReadSession, owner: AdapterFamily, name: str) -> str:
    """A version one can go back to: one that was the champion. Any other becomes it by a promotion, past the gate."""
    version = find_version(session, owner, name)
    require_not_retired(version)
    if not has_served(session, owner.id, CHAMPION, version.version):
        raise Conflict(
            f"{version.version} was never the champion of '{owner.name}', so there is no going back to it; promote it",
            code="never_served",
        )
    return version.version


def require_not_retired(version: AdapterVersion) -> None:
    """Raise Conflict (`adapter_retired`) for a version that serves no more."""
    if version.status == AdapterStatus.RETIRED:
        raise Conflict(f"{version.version} is retired", code="adapter_retired", extra={"reasons": version.reasons})


def require_servable(version: AdapterVersion, *, force: bool, reason: str | None) -> None:
    """Raise unless a version may come to serve: the gate passed it, or somebody signs for it with `force`."""
    require_not_retired(version)
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
