"""Documents: upload, list, read, delete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from api.documents import as_bodies
from api.errors import request_id_of
from api.json_bodies import refuse_wide
from api.paging import PageQuery
from api.schemas.documents import (
    SUPERSEDES,
    AcceptedDocument,
    AcceptedDocuments,
    ChunkBody,
    ChunkList,
    DocumentBody,
    DocumentList,
    RereadDocument,
    RereadDocuments,
    RereadRequest,
    TextDocumentRequest,
    UpdateDocumentRequest,
)
from api.schemas.jobs import JobBody
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from api.uploads import in_store, media_type_of, parse_date_field, parse_json_field, read_form, refuse
from core.access import Principal
from core.contents import work_folder
from core.errors import InvalidInput, UnsupportedFormat
from core.paging import Page
from core.repositories.documents import DEFAULT_COLLECTION
from core.types import DocumentStatus, JobKind, Scope
from ingest.encoding import known_encoding
from ingest.update import DocumentChange
from ingest.upload import Upload
from ingest.validity import Validity

router = APIRouter(route_class=GuardedRoute, prefix="/v1/documents", tags=["documents"])

FORM_FIELDS: Final = (
    "collection", "external_id", "groups", "metadata", "valid_from", "valid_until", "supersedes",
    "encoding", "password",
)  # fmt: skip
SAFE_TYPES: Final = frozenset(
    {
        "application/pdf",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "text/markdown",
        "text/plain",
    }
)
"""Types that originals are sent under. What a browser might run (HTML, SVG ...) goes out as plain bytes.

Text has no charset here: the bytes are those that came, in whatever encoding; `as=text` is always UTF-8.
"""

_READ = needs(Scope.QUERY, Scope.INGEST)
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "collection": {"type": "string"},
                        "external_id": {"type": "string", "description": "The same one replaces the document."},
                        "groups": {"type": "string", "description": "JSON list of groups that may read it."},
                        "metadata": {"type": "string", "description": "JSON object."},
                        "valid_from": {"type": "string", "format": "date", "description": "First day it holds."},
                        "valid_until": {"type": "string", "format": "date", "description": "Last day it holds."},
                        "supersedes": {"type": "string", "description": SUPERSEDES},
                        "encoding": {
                            "type": "string",
                            "description": "What text, Markdown, HTML and CSV is in, members of archives included:"
                            " cp932, euc-jp, iso-2022-jp, utf-8 ... Without it the bytes are judged.",
                        },
                        "password": {
                            "type": "string",
                            "format": "password",
                            "description": "Opens encrypted PDF, Office and ZIP files. Used once, stored nowhere: what"
                            " is kept is the file without it.",
                        },
                    },
                }
            },
            "application/json": {"schema": TextDocumentRequest.model_json_schema()},
        },
    }
}


@router.post("", status_code=202, dependencies=[needs(Scope.INGEST)], openapi_extra=_UPLOAD_BODY)
async def add_documents(request: Request, caller: Caller, services: ServicesOf) -> AcceptedDocuments:
    """Take files (multipart) or one text (JSON). They are read by a job; follow it at `/v1/jobs/{id}/events`."""
    kind = media_type_of(request)
    request_id = request_id_of(request.scope)
    with work_folder(services.settings) as folder:
        if kind == "multipart/form-data":
            uploads = await _uploads_from_form(request, folder)
        elif kind == "application/json":
            uploads = [_upload_from_json(await request.body())]
        else:
            raise UnsupportedFormat(
                "send multipart/form-data with `file`, or application/json with `text`", code="unsupported_media_type"
            )
        return await in_store(request, caller, lambda: _accept(services, caller, uploads, request_id))


async def _uploads_from_form(request: Request, folder: Path) -> list[Upload]:
    form = await read_form(request, FORM_FIELDS, folder)
    if not form.files:
        raise refuse("file", "no file came; send at least one part named `file`", "missing_file")
    external_id = form.fields.get("external_id")
    if external_id and len(form.files) > 1:
        raise refuse("external_id", "one external_id cannot name several files", "external_id_of_many")
    groups = parse_json_field(form.fields, "groups", list)
    metadata = parse_json_field(form.fields, "metadata", dict)
    validity = Validity(
        parse_date_field(form.fields, "valid_from"),
        parse_date_field(form.fields, "valid_until"),
        form.fields.get("supersedes") or None,
    )
    if validity.supersedes and len(form.files) > 1:
        raise refuse("supersedes", "several files cannot take one document's place", "supersedes_of_many")
    return [
        Upload(
            filename=file.filename,
            data=file.data,
            external_id=external_id,
            groups=groups,
            metadata=metadata,
            collection=form.fields.get("collection") or DEFAULT_COLLECTION,
            validity=validity,
            encoding=form.fields.get("encoding"),
            password=form.fields.get("password"),
        )
        for file in form.files
    ]


def _upload_from_json(body: bytes) -> Upload:
    refuse_wide(body)
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}", code="malformed_json") from error
    try:
        asked = TextDocumentRequest.model_validate(raw)
    except ValidationError as error:
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error
    encoding = "utf-8" if asked.encoding is None else known_encoding(asked.encoding) or asked.encoding
    try:
        data = asked.text.encode(encoding)
    except UnicodeError as error:
        raise refuse("encoding", f"the text has characters that {encoding} lacks", "encoding_mismatch") from error
    except LookupError:
        data = asked.text.encode()  # of no encoding: refused with the other fields
    return Upload(
        filename=asked.filename,
        data=data,
        external_id=asked.external_id,
        groups=asked.groups,
        metadata=asked.metadata,
        collection=asked.collection or DEFAULT_COLLECTION,
        validity=Validity(asked.valid_from, asked.valid_until, asked.supersedes),
        encoding=encoding,
    )


def _accept(services: Services, caller: Principal, uploads: Sequence[Upload], request_id: str) -> AcceptedDocuments:
    accepted = services.ingest.accept(caller, uploads, request_id=request_id)
    with services.db.read() as session:
        bodies = as_bodies(session, [item.document for item in accepted])
    items = []
    for item, body in zip(accepted, bodies, strict=True):
        job = item.job or services.jobs.latest_of(item.document.id, caller.tenant_id, JobKind.INGEST)
        items.append(
            AcceptedDocument(document=body, job=JobBody.model_validate(job) if job else None, unchanged=item.unchanged)
        )
    return AcceptedDocuments(items=items)


@router.post("/reread", status_code=202, dependencies=[needs(Scope.INGEST)])
def reread_documents(body: RereadRequest, request: Request, caller: Caller, services: ServicesOf) -> RereadDocuments:
    """Extract stored bytes again, by jobs, as after an upgrade. The old text serves until the new one is whole."""
    rereading, request_id = services.ingest.rereading, request_id_of(request.scope)
    if body.all:
        done = rereading.all(
            caller,
            limit=body.limit,
            after=body.cursor,
            collection=body.collection,
            read_before=body.read_before,
            request_id=request_id,
        )
    else:
        done = Page(rereading.these(caller, body.documents, request_id=request_id), None)
    with services.db.read() as session:
        bodies = as_bodies(session, [item.document for item in done.items])
    items = [
        RereadDocument(document=document, job=JobBody.model_validate(item.job), under_way=item.under_way)
        for item, document in zip(done.items, bodies, strict=True)
    ]
    return RereadDocuments(items=items, next_cursor=done.next_cursor)


@router.get("", dependencies=[_READ])
def list_documents(
    caller: Caller,
    services: ServicesOf,
    page: PageQuery,
    status: Annotated[DocumentStatus | None, Query()] = None,
    collection: Annotated[str | None, Query(max_length=100)] = None,
    external_id: Annotated[str | None, Query(max_length=512)] = None,
    code: Annotated[str | None, Query(max_length=80, description="Error code of failed documents.")] = None,
    retryable: Annotated[bool | None, Query(description="Failed for now (true), or for good (false).")] = None,
) -> DocumentList:
    """Documents that the caller may read, newest first."""
    found = services.ingest.list(
        caller,
        limit=page.limit,
        cursor=page.cursor,
        status=status,
        collection=collection,
        external_id=external_id,
        error_code=code,
        retryable=retryable,
    )
    with services.db.read() as session:
        items = as_bodies(session, found.items)
    return DocumentList(items=items, next_cursor=found.next_cursor)


@router.get("/{document_id}", dependencies=[_READ])
def get_document(document_id: str, caller: Caller, services: ServicesOf) -> DocumentBody:
    """One document."""
    document = services.ingest.get(caller, document_id)
    with services.db.read() as session:
        return as_bodies(session, [document])[0]


@router.patch("/{document_id}", dependencies=[needs(Scope.INGEST)])
def update_document(
    document_id: str, body: UpdateDocumentRequest, request: Request, caller: Caller, services: ServicesOf
) -> DocumentBody:
    """Change who may read a document, where it is filed, its metadata, or when it holds. In force at once."""
    named: dict[str, Any] = {name: getattr(body, name) for name in body.model_fields_set - {"validity_source"}}
    named |= {name: empty for name, empty in (("groups", []), ("metadata", {})) if named.get(name, "") is None}
    change = DocumentChange(**named, found_validity=body.validity_source == "found")
    document = services.ingest.updates.update(caller, document_id, change, request_id=request_id_of(request.scope))
    with services.db.read() as session:
        return as_bodies(session, [document])[0]


@router.delete("/{document_id}", status_code=202, dependencies=[needs(Scope.INGEST)])
def delete_document(document_id: str, request: Request, caller: Caller, services: ServicesOf) -> AcceptedDocument:
    """Delete a document: no search or answer sees it from now on; a job removes what is left of it."""
    deleted = services.ingest.delete(caller, document_id, request_id=request_id_of(request.scope))
    with services.db.read() as session:
        body = as_bodies(session, [deleted.document])[0]
    return AcceptedDocument(
        document=body, job=JobBody.model_validate(deleted.job) if deleted.job else None, unchanged=False
    )


@router.get("/{document_id}/content", dependencies=[_READ], response_class=Response)
def get_content(
    document_id: str,
    caller: Caller,
    services: ServicesOf,
    form: Annotated[Literal["original", "text"], Query(alias="as")] = "original",
) -> Response:
    """The bytes as uploaded, or (`as=text`) the extracted text that citations and chunks point into."""
    content = services.ingest.content(caller, document_id, as_text=form == "text")
    if form == "text":
        return Response(content.data, media_type="text/plain; charset=utf-8")
    media_type = content.media_type if content.media_type in SAFE_TYPES else "application/octet-stream"
    return Response(
        content.data,
        headers={
            "Content-Type": media_type,
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(content.filename, safe='')}",
        },
    )


@router.get(
    "/{document_id}/pages/{number}",
    dependencies=[_READ],
    response_class=Response,
    responses={
        200: {
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
            "headers": {
                "ETag": {"schema": {"type": "string"}},
                "X-Highlight-Boxes": {
                    "description": "Marked boxes in pixels, `x0,y0,x1,y1;...`; empty where the page lacks the span.",
                    "schema": {"type": "string"},
                },
            },
        },
        304: {"description": "The image that `If-None-Match` names."},
    },
)
def get_page_image(
    document_id: str,
    number: int,
    request: Request,
    caller: Caller,
    services: ServicesOf,
    highlight: Annotated[
        str | None, Query(description="`start-end`, a span of the extracted text as citations have it.", max_length=40)
    ] = None,
) -> Response:
    """Page `number` (from 1) of a PDF or picture as PNG, with a span of the extracted text marked."""
    found = services.page_images.find(caller, document_id, number, _span(highlight))
    headers = {"ETag": f'"{found.tag}"', "Cache-Control": "private, no-cache"}
    if found.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    drawn = services.page_images.draw(found)
    headers["X-Highlight-Boxes"] = ";".join(",".join(map(str, box)) for box in drawn.boxes)
    return Response(drawn.png, media_type="image/png", headers=headers)


def _span(highlight: str | None) -> tuple[int, int] | None:
    """`start-end` as numbers."""
    if highlight is None:
        return None
    start, separator, end = highlight.partition("-")
    if not (separator and start.isdecimal() and end.isdecimal() and max(len(start), len(end)) <= 9):
        raise InvalidInput(f"highlight '{highlight}' is not of the form start-end", code="invalid_highlight")
    return int(start), int(end)


@router.get("/{document_id}/chunks", dependencies=[_READ])
def list_chunks(document_id: str, caller: Caller, services: ServicesOf, page: PageQuery) -> ChunkList:
    """Chunks of the generation in force, in reading order."""
    found = services.ingest.chunks(caller, document_id, limit=page.limit, cursor=page.cursor)
    return ChunkList(items=[ChunkBody.model_validate(row) for row in found.items], next_cursor=found.next_cursor)
