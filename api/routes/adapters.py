"""Adapters: what there is, what serves, who changed it; promote, roll back, import."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select

from api.adapters import family_bodies, find_family, version_body, version_report
from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.adapters import (
    AliasEventBody,
    AliasEventList,
    FamilyBody,
    FamilyList,
    MovedAlias,
    PromoteRequest,
    RollbackRequest,
    VersionBody,
)
from api.schemas.base import Warned
from api.schemas.tuning import MergeRequest, TuningRunBody
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from api.uploads import in_store, read_upload
from core.access import Principal
from core.contents import Content, work_folder
from core.errors import FieldError, InvalidInput
from core.paging import cut_page, newest_page
from core.repositories.lineage import SourceKind, versions_that_saw
from core.tables import AdapterFamily, AdapterVersion, AliasEvent
from core.types import Scope
from generation.adapters.moves import AliasMove
from tuning.report import as_html, as_markdown

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/adapters", tags=["adapters"])

_READ = needs(Scope.TUNE)
_MOVE = needs(Scope.ADMIN)
_PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox"
"""The page styles itself and loads nothing."""
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
            "application/x-tar": {"schema": {"type": "string", "format": "binary"}},
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.get("", dependencies=[_READ])
def list_families(
    caller: Caller,
    services: ServicesOf,
    page: PageQuery,
    saw_document: Annotated[
        str | None, Query(max_length=48, description="Only versions that saw this document, deleted ones included.")
    ] = None,
    saw_feedback: Annotated[
        str | None, Query(max_length=48, description="Only versions with a row from this feedback.")
    ] = None,
) -> FamilyList:
    """Families with their versions and aliases, newest first."""
    query = select(AdapterFamily).where(AdapterFamily.tenant_id == caller.tenant_id)
    asked = [
        (kind, source_id)
        for kind, source_id in ((SourceKind.DOCUMENT, saw_document), (SourceKind.FEEDBACK, saw_feedback))
        if source_id is not None
    ]
    seen: set[str] | None = None
    if asked:
        with services.db.read() as session:
            found = [
                version for kind, one in asked for version in versions_that_saw(session, caller.tenant_id, kind, one)
            ]
        seen = {one.id for one in found}
        query = query.where(AdapterFamily.id.in_({one.family_id for one in found}))
    query = newest_page(query, AdapterFamily, page.cursor, page.limit)
    with services.db.read() as session:
        cut = cut_page(session.scalars(query).all(), page.limit)
        bodies = family_bodies(session, cut.items)
    if seen is not None:
        for body in bodies:
            body.versions = [version for version in body.versions if version.id in seen]
    return FamilyList(items=bodies, next_cursor=cut.next_cursor)


@router.get("/{family}", dependencies=[_READ])
def get_family(family: str, caller: Caller, services: ServicesOf) -> FamilyBody:
    """One family."""
    with services.db.read() as session:
        return family_bodies(session, [find_family(session, caller, family)])[0]


@router.post("/{family}/merge", status_code=202, dependencies=[_READ])
def merge_versions(
    family: str, body: MergeRequest, request: Request, caller: Caller, services: ServicesOf
) -> TuningRunBody:
    """Queue a run that makes one candidate out of several versions and puts it before the gate."""
    run = services.tuning.create_run(caller, body.as_run(family), request_id=request_id_of(request.scope))
    return TuningRunBody.model_validate(run)


@router.get("/{family}/history", dependencies=[_READ])
def list_history(family: str, caller: Caller, services: ServicesOf, page: PageQuery) -> AliasEventList:
    """Who moved which alias when, from what to what, and why; newest first."""
    with services.db.read() as session:
        found = find_family(session, caller, family)
        query = select(AliasEvent).where(AliasEvent.family_id == found.id, AliasEvent.tenant_id == caller.tenant_id)
        query = newest_page(query, AliasEvent, page.cursor, page.limit)
        cut = cut_page(session.scalars(query).all(), page.limit)
    return AliasEventList(
        items=[AliasEventBody.model_validate(event) for event in cut.items], next_cursor=cut.next_cursor
    )


@router.get(
    "/{family}/versions/{version}/report",
    dependencies=[_READ],
    response_class=Response,
    responses={200: {"content": {"text/markdown": {}, "text/html": {}}}},
)
def get_report(
    family: str,
    version: str,
    caller: Caller,
    services: ServicesOf,
    as_: Annotated[Literal["markdown", "html"], Query(alias="as")] = "markdown",
) -> Response:
    """The gate report of a version as a page to read; the HTML has the loss curve and the intervals as pictures."""
    with services.db.read() as session:
        found = find_family(session, caller, family)
        report = version_report(session, found, _version_name(family, version))
    if as_ == "html":
        return Response(as_html(report), media_type="text/html", headers={"Content-Security-Policy": _PAGE_POLICY})
    return Response(as_markdown(report), media_type="text/markdown")


@router.post("/{family}/promote", dependencies=[_MOVE])
def promote(family: str, body: PromoteRequest, request: Request, caller: Caller, services: ServicesOf) -> MovedAlias:
    """Let a version serve. Answers that began before keep the version that they were stamped with."""
    if body.force and not (body.reason or "").strip():
        detail = "`force` needs a `reason`"
        raise InvalidInput(detail, code="reason_required", errors=[FieldError("body.reason", detail)])
    moved = services.registry.promote(
        caller,
        family,
        _version_name(family, body.version),
        force=body.force,
        reason=body.reason,
        canary_percent=body.canary_percent,
        request_id=request_id_of(request.scope),
    )
    return _moved(services, caller, family, moved)


@router.post("/{family}/rollback", dependencies=[_MOVE])
def roll_back(family: str, body: RollbackRequest, request: Request, caller: Caller, services: ServicesOf) -> MovedAlias:
    """Go back to an earlier champion, or with nothing earlier to the base. `effective_ms` is measured."""
    to = _version_name(family, body.to) if body.to is not None else None
    moved = services.registry.rollback(caller, family, to, body.reason, request_id=request_id_of(request.scope))
    return _moved(services, caller, family, moved)


def _version_name(family: str, given: str) -> str:
    """`v3`, also when it was written `FAMILY@v3`, as answers are stamped and runs name their result."""
    return given.removeprefix(f"{family}@")


def _moved(services: Services, caller: Principal, family: str, moved: AliasMove) -> MovedAlias:
    with services.db.read() as session:
        shown = family_bodies(session, [find_family(session, caller, family)])[0]
    default = services.settings.tuning.default_family
    warnings = []
    if family != default:
        detail = (
            f"asks that name no model are answered by the family '{default}'; name 'tsumugi:{family}' in `model` or"
            f" '{family}' in `adapter`, or set `tuning.default_family`"
        )
        warnings.append(Warned(code="not_the_default_family", detail=detail))
    return MovedAlias(
        from_version=moved.from_version,
        to=moved.to_version,
        alias=moved.alias,
        effective_ms=round(moved.effective_ms, 3),
        family=family,
        champion=shown.champion,
        canary=shown.canary,
        aliases=shown.aliases,
        answers_plain_asks=family == default,
        warnings=warnings,
    )


@router.post("/{family}/versions", status_code=201, dependencies=[_MOVE], openapi_extra=_UPLOAD_BODY)
async def import_version(family: str, request: Request, caller: Caller, services: ServicesOf) -> VersionBody:
    """Import a PEFT adapter folder as .tar or .zip: safetensors only, and it must fit the base.

    An output folder of TRL is taken as it is; what was left out of it is in `manifest.notes.left_out`.
    """
    request_id = request_id_of(request.scope)
    with work_folder(services.settings) as folder:
        form = await read_upload(request, [], "adapter.tar", folder)
        return await in_store(
            request, caller, lambda: _import(services, caller, family, form.files[0].data, request_id)
        )


def _import(services: Services, caller: Principal, family: str, archive: Content, request_id: str) -> VersionBody:
    imported = services.registry.import_archive(
        caller, family, archive, take=services.ingest.unpack_for(caller), request_id=request_id
    )
    with services.db.read() as session:
        found = find_family(session, caller, family)
        version = session.scalars(
            select(AdapterVersion).where(
                AdapterVersion.family_id == found.id, AdapterVersion.version == imported.version
            )
        ).one()
        return version_body(family, version)
