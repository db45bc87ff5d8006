"""Training sets: upload, list, read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from api.errors import request_id_of
from api.paging import PageQuery
from api.schemas.datasets import (
    DatasetBody,
    DatasetChange,
    DatasetList,
    DatasetRowBody,
    DatasetRowList,
    UploadedDatasetBody,
)
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.uploads import in_store, read_upload
from core.contents import work_folder
from core.types import Scope
from tuning.datasets.service import Upload

TURN_TIMEOUT_S: Final = 120.0
router = APIRouter(route_class=GuardedRoute, prefix="/v1/datasets", tags=["datasets"])

_UPLOAD_BODY = {
    "parameters": [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": {"type": "string"},
            "description": "With a raw body.",
        }
        for name in ("name", "family")
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string"},
                        "family": {"type": "string", "description": "Whose runs take it; default: the default family."},
                    },
                }
            },
            "application/jsonl": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}


@router.post("", status_code=201, dependencies=[needs(Scope.TUNE)], openapi_extra=_UPLOAD_BODY)
async def upload_dataset(
    request: Request, response: Response, caller: Caller, services: ServicesOf
) -> UploadedDatasetBody:
    """Upload JSONL or JSON: Alpaca, ShareGPT, messages or preference pairs. Rows that cannot be used are reported."""
    with work_folder(services.settings) as folder:
        form = await read_upload(request, ["name", "family"], "dataset.jsonl", folder)
        file = form.files[0]
        name, family = (form.fields.get(field) or None for field in ("name", "family"))

        def store() -> Upload:
            with request.app.state.dataset_turns.turn(caller.tenant_id, TURN_TIMEOUT_S):
                return services.datasets.upload(caller, file.data, file.filename, name, family, folder=folder)

        upload = await in_store(request, caller, store)
    response.status_code = 201 if upload.created else 200
    return UploadedDatasetBody(
        **{**asdict(upload.dataset), "report": upload.report, "warnings": upload.warnings, "created": upload.created}
    )


@router.get("", dependencies=[needs(Scope.TUNE)])
def list_datasets(
    caller: Caller,
    services: ServicesOf,
    page: PageQuery,
    family: Annotated[str | None, Query(max_length=64, description="Only sets of this family.")] = None,
) -> DatasetList:
    """Training sets, newest first."""
    found = services.datasets.list(caller, family=family, limit=page.limit, cursor=page.cursor)
    return DatasetList(items=[DatasetBody.model_validate(item) for item in found.items], next_cursor=found.next_cursor)


@router.get("/{dataset_id}", dependencies=[needs(Scope.TUNE)])
def get_dataset(dataset_id: str, caller: Caller, services: ServicesOf) -> DatasetBody:
    """One training set."""
    return DatasetBody.model_validate(services.datasets.get(caller, dataset_id))


@router.patch("/{dataset_id}", dependencies=[needs(Scope.TUNE)])
def change_dataset(
    dataset_id: str, body: DatasetChange, request: Request, caller: Caller, services: ServicesOf
) -> DatasetBody:
    """Give a set to another family; retire it, so that no new run takes it, or take it back."""
    changed = services.datasets.change(
        caller, dataset_id, family=body.family, retired=body.retired, reason=body.reason,
        request_id=request_id_of(request.scope),
    )  # fmt: skip
    return DatasetBody.model_validate(changed)


@router.delete("/{dataset_id}", status_code=204, dependencies=[needs(Scope.TUNE)])
def delete_dataset(dataset_id: str, request: Request, caller: Caller, services: ServicesOf) -> Response:
    """Delete a set with its rows and its file. Versions trained on it stay, and are still found by what they saw."""
    services.datasets.delete(caller, dataset_id, request_id=request_id_of(request.scope))
    return Response(status_code=204)


@router.get("/{dataset_id}/rows", dependencies=[needs(Scope.TUNE)])
def list_rows(dataset_id: str, caller: Caller, services: ServicesOf, page: PageQuery) -> DatasetRowList:
    """Valid rows in file order."""
    found = services.datasets.rows(caller, dataset_id, limit=page.limit, cursor=page.cursor)
    return DatasetRowList(
        items=[DatasetRowBody.model_validate(row) for row in found.items], next_cursor=found.next_cursor
    )


@router.get("/{dataset_id}/quality", dependencies=[needs(Scope.TUNE)])
def get_quality(dataset_id: str, caller: Caller, services: ServicesOf) -> dict[str, Any]:
    """What to look at before training: duplicates, contradictions, outliers, private data, each with its reason."""
    return services.datasets.quality(caller, dataset_id)
