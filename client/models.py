"""What the service answers, as plain values. Offsets count Unicode code points, end exclusive; times are RFC 3339."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Parsed:
    """A value that is read from JSON; fields that it does not know are left out."""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read from a JSON object."""
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in body.items() if name in names})


@dataclass(frozen=True, slots=True)
class Passage(Parsed):
    """A search hit. `score` ranks within one result; `relevance` in [0, 1] compares across queries.

    hit_start, hit_end: the span that was found, where the passage was grown around it.
    """

    chunk_id: str
    document_id: str
    filename: str
    text: str
    start: int
    end: int
    score: float
    relevance: float = 0.0
    generation: int = 0
    page: int | None = None
    heading: str | None = None
    hit_start: int | None = None
    hit_end: int | None = None


@dataclass(frozen=True, slots=True)
class Citation(Parsed):
    """answer[answer_start:answer_end] is the claim, `quote` the span start:end of the source."""

    index: int
    answer_start: int
    answer_end: int
    document_id: str
    generation: int
    filename: str
    start: int
    end: int
    quote: str
    verified: bool
    page: int | None = None
    edition: str | None = None


@dataclass(frozen=True, slots=True)
class Answer(Parsed):
    """A finished answer. `provenance` names adapter, base, index version, embedder and prompt."""

    id: str
    answer: str
    refused: bool
    refusal_reason: str | None
    citations: tuple[Citation, ...]
    provenance: dict[str, Any]
    usage: dict[str, Any]
    timings_ms: dict[str, Any]

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read from a JSON object, citations included."""
        names = {field.name for field in fields(cls)} - {"citations"}
        return cls(
            citations=tuple(Citation.parse(item) for item in body["citations"]),
            **{name: value for name, value in body.items() if name in names},
        )


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a streamed answer: `meta`, `token`, `citation`, `done`, `error`; `data` as the service sent it."""

    event: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Document(Parsed):
    """A document. `status`: queued, processing, ready, failed, deleting."""

    id: str
    filename: str
    status: str
    collection: str
    external_id: str | None
    groups: list[str]
    metadata: dict[str, Any]
    created_at: str
    updated_at: str
    error: dict[str, Any] | None = None
    title: str | None = None
    language: str | None = None
    valid_from: str | None = None
    valid_until: str | None = None
    validity_source: str | None = None
    supersedes: str | None = None
    edition: dict[str, Any] | None = None
    page_count: int | None = None
    chunk_count: int | None = None
    encoding: str | None = None
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """{code, detail, count}: what to know of how it was read."""


@dataclass(frozen=True, slots=True)
class Job(Parsed):
    """A unit of background work. `status`: queued, running, succeeded, failed, cancelled."""

    id: str
    kind: str
    status: str
    progress: float
    stage: str | None = None
    error: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more happens to it unless somebody asks."""
        return self.status in {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True, slots=True)
class ParsedWithJob(Parsed):
    """What carries the job that makes it, once it has one."""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """Read from a JSON object, the job included."""
        job = body.get("job")
        names = {field.name for field in fields(cls)}
        known = {name: value for name, value in body.items() if name in names}
        return cls(**known | {"job": Job.parse(job) if job else None})


@dataclass(frozen=True, slots=True)
class Erasure(ParsedWithJob):
    """A request to forget. `status`: planning, planned, erasing, waiting, done, failed or cancelled.

    `plan` says what is held where, `certificate`, once it is done, what was erased and what could not be reached.
    """

    id: str
    kind: str
    status: str
    selector: dict[str, Any]
    retire: str
    plan: dict[str, Any] | None
    erased: dict[str, int]
    certificate: dict[str, Any] | None
    job: Job | None


@dataclass(frozen=True, slots=True)
class Evaluation(ParsedWithJob):
    """Questions asked of the service. `report` and `comparison` are None until it has ended.

    Shares in both are {"count", "of", "share", "low", "high"}.
    """

    id: str
    name: str
    status: str
    question_count: int
    conditions: dict[str, Any]
    report: dict[str, Any] | None
    comparison: dict[str, Any] | None
    job: Job | None


@dataclass(frozen=True, slots=True)
class EvaluationOutcome(Parsed):
    """One question of an evaluation. `outcome` has the answer, its citations and why it is wrong."""

    ordinal: int
    status: str
    question: dict[str, Any]
    outcome: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A document that was taken in, and the job that reads it; the same bytes again are `unchanged`."""

    document: Document
    job: Job | None
    unchanged: bool
    others: tuple[Uploaded, ...] = ()
    """The further files of an archive."""

    @property
    def all(self) -> tuple[Uploaded, ...]:
        """Every document that came of the upload, in order."""
        return (self, *self.others)

    @classmethod
    def parse_all(cls, body: Mapping[str, Any]) -> Uploaded:
        """Read the answer to an upload."""
        first, *others = map(cls.parse, body["items"])
        return replace(first, others=tuple(others))

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Uploaded:
        """Read from a JSON object."""
        job = body.get("job")
        return cls(Document.parse(body["document"]), Job.parse(job) if job else None, bool(body.get("unchanged")))
