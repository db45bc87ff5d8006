"""Documents and their chunks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody
from api.schemas.jobs import JobBody


class TextDocumentRequest(RequestBody):
    """A document sent as JSON text instead of a file. The ending of `filename` says how it is read."""

    text: str
    filename: str = Field("untitled.txt", min_length=1, max_length=512)
    collection: str | None = Field(None, min_length=1, max_length=100)
    external_id: str | None = Field(None, min_length=1, max_length=512)
    groups: list[str] | None = Field(None, max_length=200)
    metadata: dict[str, Any] | None = None


class DocumentBody(ResponseBody):
    """A document. Facts about its content are those of the generation that serves, or of the newest while none does."""

    id: str
    filename: str
    collection: str
    external_id: str | None
    status: str
    error: dict[str, Any] | None
    groups: list[str]
    metadata: dict[str, Any]
    generation: int
    active_generation: int | None
    media_type: str | None
    encoding: str | None
    byte_size: int | None
    char_count: int | None
    page_count: int | None
    chunk_count: int | None
    title: str | None
    language: str | None
    quality: dict[str, Any]
    source_sha256: str | None
    created_at: datetime
    updated_at: datetime


class AcceptedDocument(ResponseBody):
    """One accepted upload. `unchanged`: the same bytes were here already; `job` is then the one that read them."""

    document: DocumentBody
    job: JobBody | None
    unchanged: bool


class AcceptedDocuments(ResponseBody):
    """Accepted uploads, in the order of the files."""

    items: list[AcceptedDocument]


class DocumentList(ResponseBody):
    """A page of documents, newest first."""

    items: list[DocumentBody]
    next_cursor: str | None


class ChunkBody(ResponseBody):
    """A passage: text[start:end] of the document's extracted text, in Unicode code points."""

    id: str
    ordinal: int
    generation: int
    start: int
    end: int
    page: int | None
    heading: str | None
    text: str
    token_count: int


class ChunkList(ResponseBody):
    """A page of chunks in reading order."""

    items: list[ChunkBody]
    next_cursor: str | None
