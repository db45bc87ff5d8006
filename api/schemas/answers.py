"""Questions, answers, search, feedback."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody


class Turn(RequestBody):
    """An earlier turn."""

    role: Literal["user", "assistant"]
    content: str


class AskBody(RequestBody):
    """A question. `adapter` takes FAMILY, FAMILY@VERSION or base; default is the champion of the default family."""

    question: str = Field(min_length=1)
    collection: str | None = Field(None, min_length=1, max_length=100)
    conversation_id: str | None = Field(None, min_length=1, max_length=100)
    adapter: str | None = Field(None, min_length=1, max_length=120)
    stream: bool = False
    max_tokens: int | None = Field(None, ge=1, le=32_768)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    expand_tokens: int | None = Field(
        None, ge=0, le=4096, description="Grow each passage to its section before it is read, up to so many tokens."
    )
    history: list[Turn] = Field([], max_length=100, description="Earlier turns of the conversation, oldest first.")
    examples: int = Field(0, ge=0, le=8, description="Similar curated answers shown to the model as examples.")
    reasoning: bool = Field(False, description="Reason step by step first; it comes apart from the answer.")
    best_of: int = Field(1, ge=1, le=8, description="Candidates made; the best supported one is the answer.")
    response_format: dict[str, Any] | None = Field(
        None, description="As OpenAI has it: `json_object` or `json_schema`; docs/answers.md says what is taken."
    )


class CitationBody(ResponseBody):
    """A claim and its source; offsets count Unicode code points, end exclusive."""

    index: int
    answer_start: int
    answer_end: int
    document_id: str
    generation: int
    filename: str
    page: int | None
    start: int
    end: int
    quote: str
    verified: bool
    edition: str | None = Field(None, description="Which edition of its document was used (2025年度, v4), where told.")


class EvidenceBody(ResponseBody):
    """A line of a document that may answer. `text` is its words as an answer, `quote` the document's [start, end)."""

    text: str
    kind: str
    document_id: str
    generation: int
    filename: str
    page: int | None
    heading: str | None
    start: int
    end: int
    quote: str
    probability: float


class AnswerBody(ResponseBody):
    """A finished answer."""

    id: str
    answer: str
    refused: bool
    refusal_reason: str | None
    citations: list[CitationBody]
    provenance: dict[str, Any] = Field(
        description="The versions behind it; `answered_by` (line, model, computed, nobody) and, where "
        "computed, the `operation`. While a canary runs, `trial`: the `arm`, and whether it was `drawn_by` "
        "conversation, user or request."
    )
    usage: dict[str, Any]
    timings_ms: dict[str, Any]
    finish_reason: str = "stop"
    reasoning: str | None = None
    confidence: float | None = Field(
        None, description="Calibrated probability that the answer is right; null where nothing was calibrated."
    )
    evidence: list[EvidenceBody] = Field([], description="The lines that the answer stands on, best first.")
    alternatives: list[EvidenceBody] = Field([], description="What other rows or editions say.")
    nearest: list[EvidenceBody] = Field([], description="With a refusal: the lines that came nearest.")


class SearchBody(RequestBody):
    """A search over what the caller may read."""

    query: str = Field(min_length=1)
    limit: int = Field(5, ge=1, le=100)
    collection: str | None = Field(None, min_length=1, max_length=100)
    filters: dict[str, Any] | None = Field(None, description="Conditions on documents; docs/filters.md says how.")
    diversity: float | None = Field(
        None, ge=0, le=1, description="Maximal marginal relevance in place of the configured one; 0 is off."
    )
    expand_tokens: int | None = Field(
        None, ge=0, le=4096, description="Grow each passage to its section, up to so many tokens; 0 is off."
    )


class SearchItem(ResponseBody):
    """A passage. `score` ranks within one result; `relevance` is calibrated and compares across queries.

    `hit_start` and `hit_end` are the span that was found, where the passage was grown around it.
    """

    text: str
    score: float
    relevance: float
    document_id: str
    generation: int
    filename: str
    page: int | None
    heading: str | None
    start: int
    end: int
    chunk_id: str
    hit_start: int | None = None
    hit_end: int | None = None


class SearchAnswer(ResponseBody):
    """Passages, best first."""

    items: list[SearchItem]
    timings_ms: dict[str, float]


class FeedbackBody(RequestBody):
    """What somebody says of an answer. Only with `consent` may it become a training row."""

    rating: Literal["up", "down"]
    correction: str | None = Field(None, max_length=20_000)
    comment: str | None = Field(None, max_length=20_000)
    consent: bool = False


class FeedbackAnswer(ResponseBody):
    """Stored feedback."""

    id: str
    answer_id: str
    rating: str
    correction: str | None
    comment: str | None
    consent: bool
    created_at: datetime
