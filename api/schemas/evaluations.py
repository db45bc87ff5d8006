"""Evaluations: a tenant's own questions, and how the service answers them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from api.schemas.base import RequestBody, ResponseBody
from api.schemas.jobs import JobBody
from generation.evaluation.questions import MAX_QUESTIONS

QUESTIONS = (
    "Objects with `question` and what a right answer holds: `expected` (one alternative of every inner list must stand "
    "in it), `not_expected` (competing values), `documents` (file names or ids), or `unanswerable`; and `id`, `kind`, "
    "`language`, `document_language`, `collection`, `evidence`. See docs/evaluation.md."
)
Questions = Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_QUESTIONS, description=QUESTIONS)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class NewEvaluationSet(RequestBody):
    """Questions to keep under a name."""

    name: Name
    questions: Questions


class EvaluationSetBody(ResponseBody):
    """A stored set. `questions` is null in lists."""

    id: str
    name: str
    question_count: int
    created_at: datetime
    questions: list[dict[str, Any]] | None


class EvaluationSetList(ResponseBody):
    """A page of sets, newest first."""

    items: list[EvaluationSetBody]
    next_cursor: str | None


class NewEvaluation(RequestBody):
    """A run: over questions given here, or over a stored set."""

    questions: Questions | None = None
    set: Name | None = Field(None, description="Name or id of a stored set.")
    name: Name | None = Field(
        None, description="Runs of one name are compared; default: that of the set, else `questions`."
    )
    kinds: list[Annotated[str, Field(max_length=60)]] = Field(
        default_factory=list, max_length=200, description="Only questions of these kinds."
    )
    limit: int | None = Field(None, ge=1, le=MAX_QUESTIONS, description="So many, spread evenly over the set.")
    adapter: str | None = Field(None, max_length=200, description="FAMILY, FAMILY@VERSION or base; default: as served.")
    collection: str | None = Field(None, max_length=200, description="Where a question names none.")
    compare_to: str | None = Field(
        None, max_length=48, description="Id of an earlier run; default: the last one of this name that succeeded."
    )


class EvaluationBody(ResponseBody):
    """A run with its job.

    `report` has counts and shares with 95 % intervals: `right` of answerable questions, `wrong`, `refused_rightly`,
    `refused_wrongly`, `verified_wrong`, ... and the same by kind and language; `comparison` what changed since another
    run. A run that was cancelled reports what it had asked.
    """

    id: str
    name: str
    status: str
    question_count: int
    options: dict[str, Any]
    conditions: dict[str, Any]
    report: dict[str, Any] | None
    compared_with: str | None
    comparison: dict[str, Any] | None
    job: JobBody | None
    created_at: datetime


class EvaluationList(ResponseBody):
    """A page of runs, newest first, without their comparisons."""

    items: list[EvaluationBody]
    next_cursor: str | None


class EvaluationOutcomeBody(ResponseBody):
    """One question of a run. `outcome` has the answer, its citations, whether it is right and why not."""

    ordinal: int
    status: str | None
    question: dict[str, Any]
    outcome: dict[str, Any] | None


class EvaluationOutcomeList(ResponseBody):
    """A page of outcomes, in the order of the questions. `next_after`: `after` of the next page."""

    items: list[EvaluationOutcomeBody]
    next_after: int | None
