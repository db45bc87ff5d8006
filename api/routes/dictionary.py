"""The tenant's dictionary: words that stand for one another, read and replaced as a whole, as JSON or CSV."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.errors import request_id_of
from api.schemas.dictionary import DictionaryBody, DictionaryRequest
from api.security import Caller, GuardedRoute, ServicesOf, needs
from core import audit
from core.errors import InvalidInput
from core.tables import TenantDictionary
from core.tables.base import utc_now
from core.types import Scope
from retrieval.dictionary import as_groups, checked, parse_csv, write_csv

router = APIRouter(route_class=GuardedRoute, prefix="/v1/admin/dictionary", tags=["admin"])

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": DictionaryRequest.model_json_schema()},
            "text/csv": {"schema": {"type": "string", "description": "A group a line, a word a cell; UTF-8."}},
        },
    }
}


async def sent_groups(request: Request) -> list[list[str]]:
    """Groups of the body.

    Raises:
        InvalidInput: `dictionary_invalid`.
        TooLarge: `dictionary_too_large`.
        RequestValidationError: it is neither JSON of the right shape nor CSV.
    """
    data = await request.body()
    if request.headers.get("content-type", "").split(";")[0].strip().lower() == "text/csv":
        try:
            return parse_csv(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise InvalidInput("the dictionary is not UTF-8", code="dictionary_invalid") from error
    try:
        return checked(DictionaryRequest.model_validate_json(data).groups)
    except ValidationError as error:
        found: list[Any] = [{**item, "loc": ("body", *item["loc"])} for item in error.errors(include_url=False)]
        raise RequestValidationError(found) from error


@router.get("", dependencies=[needs(Scope.ADMIN)], response_model=DictionaryBody)
def get_dictionary(
    caller: Caller,
    services: ServicesOf,
    form: Annotated[Literal["json", "csv"], Query(alias="format", description="`csv`: as a file.")] = "json",
) -> DictionaryBody | Response:
    """The dictionary of the caller's tenant; without groups where none was put."""
    with services.db.read() as session:
        row = session.get(TenantDictionary, caller.tenant_id)
        body = _shown(row)
    if form == "csv":
        return Response(write_csv(body.groups), media_type="text/csv; charset=utf-8")
    return body


@router.put("", dependencies=[needs(Scope.ADMIN)], openapi_extra=_BODY)
def put_dictionary(
    groups: Annotated[list[list[str]], Depends(sent_groups)], request: Request, caller: Caller, services: ServicesOf
) -> DictionaryBody:
    """Replace the dictionary. In force at the next search; nothing is indexed anew. No groups: none."""
    with services.db.write() as session:
        row = session.get(TenantDictionary, caller.tenant_id)
        before = len(as_groups(row.entries)) if row is not None else 0
        if row is None:
            row = TenantDictionary(tenant_id=caller.tenant_id)
            session.add(row)
        row.entries = {"groups": groups}
        row.updated_at = utc_now()
        row.updated_by = caller.actor
        session.flush()
        audit.record(
            session,
            tenant_id=caller.tenant_id,
            actor=caller.actor,
            action="dictionary.put",
            object_id=caller.tenant_id,
            detail={"groups": len(groups), "groups_before": before},
            request_id=request_id_of(request.scope),
        )
        return _shown(row)


def _shown(row: TenantDictionary | None) -> DictionaryBody:
    if row is None:
        return DictionaryBody(groups=[], updated_at=None, updated_by=None)
    return DictionaryBody(groups=as_groups(row.entries), updated_at=row.updated_at, updated_by=row.updated_by)
