"""Documents and their chunks."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from api.schemas.base import AwareMoment, RequestBody, ResponseBody, refuse_bad_text
from api.schemas.jobs import JobBody

SUPERSEDES: Final = "Id or external id of the document whose place it takes."


class TextDocumentRequest(RequestBody):
    """A document sent as JSON text instead of a file. The ending of `filename` says how it is read."""

    text: str
    filename: str = Field("untitled.txt", min_length=1, max_length=512)
    collection: str | None = Field(None, min_length=1, max_length=100)
    external_id: str | None = Field(None, min_length=1, max_length=512)
    groups: list[str] | None = Field(None, max_length=200)
    metadata: dict[str, Any] | None = None
    valid_from: date | None = Field(None, description="First day on which it holds.")
    valid_until: date | None = Field(None, description="Last day on which it holds.")
    supersedes: str | None = Field(None, min_length=1, max_length=512, description=SUPERSEDES)
    encoding: str | None = Field(
        None, min_length=1, max_length=40, description="What the stored bytes are to be in [default: UTF-8]."
    )


class UpdateDocumentRequest(BaseModel):
    """What to change; what is left out stays. In force at once, for searches and answers.

    null takes a day or `supersedes` away, opens the document to the tenant (`groups`), empties `metadata`.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    groups: list[str] | None = Field(None, max_length=200, description="Groups that may read it; [] is all.")
    metadata: dict[str, Any] | None = Field(None, description="In place of what it has.")
    collection: str = Field("", max_length=100, description="Moved there; made where there is none.")
    valid_from: date | None = Field(None, description="First day on which it holds.")
    valid_until: date | None = Field(None, description="Last day on which it holds.")
    supersedes: str | None = Field(None, min_length=1, max_length=512, description=SUPERSEDES)
    validity_source: Literal["found"] | None = Field(
        None, description="`found`: the days that were found in its text again, in place of given ones."
    )

    @model_validator(mode="before")
    @classmethod
    def _clean(cls, value: Any) -> Any:
        refuse_bad_text(value)
        if value == {}:
            raise PydanticCustomError("nothing_to_change", "name at least one field to change")
        return value


class RereadRequest(RequestBody):
    """Which documents to read again: some by id, or `all`, a page a request."""

    documents: list[str] = Field(default_factory=list, max_length=100, description="Their ids.")
    all: bool = Field(False, description="All that the caller may read, in the order of their ids, instead of some.")
    collection: str | None = Field(None, min_length=1, max_length=100, description="With `all`: only of this one.")
    read_before: AwareMoment | None = Field(
        None, description="With `all`: not those that were queued for reading at this time or later."
    )
    limit: int = Field(50, ge=1, le=200, description="With `all`: how many in this request.")
    cursor: str = Field("", max_length=48, description="With `all`: `next_cursor` of the request before.")

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.all == bool(self.documents):
            raise PydanticCustomError("some_or_all", "name either `documents` or `all`")
        if self.documents and self.model_fields_set & {"collection", "read_before", "limit", "cursor"}:
            raise PydanticCustomError("some_or_all", "`collection`, `read_before`, `limit`, `cursor` go with `all`")
        return self


class EditionBody(ResponseBody):
    """Of what it is an edition, as found in its name and text. Whatever is null was not found, or was not sure.

    label: how answers name it. family: its name without what tells editions apart; documents of one collection that
    share it are editions of one thing. standing: `edition` takes the place of earlier ones, `instance` of a series
    (minutes, reports) does not. period: what it covers. dated: the day that it speaks of.
    """

    label: str | None
    family: str | None
    standing: str
    number: str | None
    period_from: date | None
    period_until: date | None
    dated: date | None


class WarningBody(ResponseBody):
    """What to know of how a document was read. `count`: how many of what `detail` says."""

    code: str
    detail: str
    count: int | None


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
    valid_from: date | None
    valid_until: date | None
    validity_source: str | None
    """`given` by a person, `found` in name or text, null where nothing is known."""
    supersedes: str | None
    edition: EditionBody | None
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
    warnings: list[WarningBody]
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


class RereadDocument(ResponseBody):
    """A document and the job that reads it again. `under_way`: that job was there before."""

    document: DocumentBody
    job: JobBody
    under_way: bool


class RereadDocuments(ResponseBody):
    """Documents that are read again. `next_cursor`: where `all` goes on, null at the end."""

    items: list[RereadDocument]
    next_cursor: str | None


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
