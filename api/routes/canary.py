"""How a family's versions come to serve: its policy, its canary trials, its shadow."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy import select

from api.adapters import find_family
from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.canary import PolicyAnswer, PolicyBody, ShadowBody, ShadowRequestBody, TrialBody, TrialList
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from core.access import Principal
from core.audit import record
from core.database import ReadSession, insert_new
from core.errors import FieldError, InvalidInput
from core.paging import cut_page, newest_page
from core.tables import AdapterAlias, AdapterVersion, CanaryTrial, FamilyPolicy
from core.tables.base import utc_now
from core.types import Scope
from generation.adapters.routing import SHADOW
from generation.canary.policy import Policy, policy_of
from generation.canary.shadow import summarise

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/adapters/{family}", tags=["adapters"])

_READ = needs(Scope.TUNE)
_MOVE = needs(Scope.ADMIN)


@router.get("/policy", dependencies=[_READ])
def get_policy(family: str, caller: Caller, services: ServicesOf) -> PolicyAnswer:
    """How versions of the family come to serve, and whom it serves."""
    with services.db.read() as session:
        found = find_family(session, caller, family)
        row = session.get(FamilyPolicy, found.id)
        policy = policy_of(session, found.id)
    return PolicyAnswer(
        family=family, policy=policy.model_dump(mode="json"), updated_at=row.updated_at if row is not None else None
    )


@router.put("/policy", dependencies=[_MOVE])
def set_policy(family: str, body: PolicyBody, request: Request, caller: Caller, services: ServicesOf) -> PolicyAnswer:
    """Replace the policy. A canary that runs keeps the one that it began under; `groups` act at once."""
    policy = Policy.model_validate(body.model_dump())
    now = utc_now()
    with services.db.write() as session:
        found = find_family(session, caller, family)
        insert_new(session, FamilyPolicy, family_id=found.id, tenant_id=caller.tenant_id, policy={}, updated_at=now)
        row = session.get_one(FamilyPolicy, found.id, with_for_update=True)
        before = row.policy or {}
        row.policy, row.updated_at = policy.model_dump(mode="json"), now
        record(
            session,
            tenant_id=caller.tenant_id,
            actor=caller.actor,
            action="adapter.policy",
            object_id=family,
            detail={"before": before, "after": row.policy},
            request_id=request_id_of(request.scope),
        )
    return PolicyAnswer(family=family, policy=policy.model_dump(mode="json"), updated_at=now)


@router.get("/canaries", dependencies=[_READ])
def list_trials(family: str, caller: Caller, services: ServicesOf, page: PageQuery) -> TrialList:
    """Trials of the family's canaries with their live figures, newest first."""
    with services.db.read() as session:
        found = find_family(session, caller, family)
        query = select(CanaryTrial).where(CanaryTrial.family_id == found.id)
        query = newest_page(query, CanaryTrial, page.cursor, page.limit)
        cut = cut_page(session.scalars(query).all(), page.limit)
        names = _names(session, found.id)
    return TrialList(
        items=[
            TrialBody(
                id=trial.id,
                version=names.get(trial.version_id, trial.version_id),
                champion=names.get(trial.champion_version_id or ""),
                percent=trial.percent,
                outcome=trial.outcome,
                reason=trial.reason,
                policy=trial.policy,
                figures=trial.figures,
                slow_after_ms=trial.slow_after_ms,
                settled_until=trial.settled_until,
                created_at=trial.created_at,
                ended_at=trial.ended_at,
            )
            for trial in cut.items
        ],
        next_cursor=cut.next_cursor,
    )


@router.get("/shadow", dependencies=[_READ])
def get_shadow(family: str, caller: Caller, services: ServicesOf) -> ShadowBody:
    """The version that answers unseen, and how it does beside what is sent."""
    return _shadow(services, caller, family)


@router.put("/shadow", dependencies=[_MOVE])
def set_shadow(
    family: str, body: ShadowRequestBody, request: Request, caller: Caller, services: ServicesOf
) -> ShadowBody:
    """Let a version answer unseen for a share of conversations."""
    if body.force and not (body.reason or "").strip():
        detail = "`force` needs a `reason`"
        raise InvalidInput(detail, code="reason_required", errors=[FieldError("body.reason", detail)])
    services.registry.shadow(
        caller, family, body.version.removeprefix(f"{family}@"), percent=body.percent, force=body.force,
        reason=body.reason, request_id=request_id_of(request.scope),
    )  # fmt: skip
    return _shadow(services, caller, family)


@router.delete("/shadow", dependencies=[_MOVE])
def end_shadow(family: str, request: Request, caller: Caller, services: ServicesOf) -> ShadowBody:
    """Let nothing answer unseen any more; what was scored stays."""
    services.registry.shadow(caller, family, None, request_id=request_id_of(request.scope))
    return _shadow(services, caller, family)


def _shadow(services: Services, caller: Principal, family: str) -> ShadowBody:
    with services.db.read() as session:
        found = find_family(session, caller, family)
        alias = session.get(AdapterAlias, (found.id, SHADOW))
        if alias is None or alias.version_id is None:
            return ShadowBody(family=family, version=None, percent=None, answers=0, read=0, errors=0, figures={})
        name = _names(session, found.id).get(alias.version_id)
        summary = summarise(session, found.id, alias.version_id)
        return ShadowBody(family=family, version=name, percent=alias.percent, **summary)


def _names(session: ReadSession, family_id: str) -> dict[str, str]:
    rows = session.execute(
        select(AdapterVersion.id, AdapterVersion.version).where(AdapterVersion.family_id == family_id)
    )
    return {str(version_id): str(name) for version_id, name in rows}
