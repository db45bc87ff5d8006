"""What became of one question: the answer held against what was expected."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Protocol

from core.types import Passage
from generation.asking import AnswerRecord
from generation.evaluation.matching import Folded, begins_yes_or_no, holds, in_order, judge, says_not_found
from generation.evaluation.questions import Question

_LONGEST_ANSWER = 10_000
_LONGEST_QUOTE = 500
_MOST_CITATIONS = 50
YES_NO = "yes_no"
"""Kind of questions whose answers may deny in words that look like a refusal."""
PROVENANCE = ("adapter", "base_model", "index_version", "embedder", "prompt_version")


class Status(StrEnum):
    """How a question ended. An unanswerable one is right when it is refused, and wrong when it is answered."""

    RIGHT = "right"
    WRONG = "wrong"
    REFUSED = "refused"
    FAILED = "failed"
    """No answer came; `error` says why."""


class Source(Protocol):
    """Where a passage or a citation comes from."""

    @property
    def document_id(self) -> str:
        """Id of the document."""
        ...

    @property
    def filename(self) -> str:
        """Its name."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """A judged answer as it is stored. None: there is nothing that could be told."""

    status: Status
    why: str = ""
    """What is missing or competes, or why it was refused."""
    refused: bool = False
    refused_in_words: bool = False
    verified: bool = False
    cited: bool | None = None
    """Whether a right document is among the citations of an answer."""
    evidence_found: bool | None = None
    """Whether the passages that were found hold the answer."""
    confidence: float | None = None
    answer: str = ""
    citations: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    total_ms: float | None = None
    error: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return asdict(self)


def failed(code: str, detail: str) -> Outcome:
    """Outcome of a question that got no answer."""
    return Outcome(Status.FAILED, why=code, error={"code": code, "detail": detail})


def outcome_of(question: Question, record: AnswerRecord) -> Outcome:
    """Judge an answer."""
    in_words = not record.refused and says_not_found(record.answer)
    status, why = _judged(question, record, in_words=in_words)
    given = status in {Status.RIGHT, Status.WRONG} and not question.unanswerable
    confidence = getattr(record, "confidence", None)
    return Outcome(
        status=status,
        why=why[:500],
        refused=record.refused,
        refused_in_words=in_words and status is not Status.WRONG,
        verified=any(citation.verified for citation in record.citations),
        cited=_cites(question, record) if given and question.documents else None,
        evidence_found=None if question.unanswerable else evidence_found(question, record.passages),
        confidence=float(confidence) if confidence is not None else None,
        answer=record.answer[:_LONGEST_ANSWER],
        citations=[
            {
                "document_id": one.document_id, "filename": one.filename, "page": one.page, "start": one.start,
                "end": one.end, "quote": one.quote[:_LONGEST_QUOTE], "verified": one.verified,
            }
            for one in record.citations[:_MOST_CITATIONS]
        ],
        provenance={name: record.provenance.get(name) for name in PROVENANCE},
        total_ms=record.timings_ms.get("total"),
    )  # fmt: skip


def _judged(question: Question, record: AnswerRecord, *, in_words: bool) -> tuple[Status, str]:
    silent = record.refused or not record.answer.strip()
    if question.unanswerable:
        if silent or in_words:
            return Status.RIGHT, ""
        return Status.WRONG, "answered, though it is unanswerable"
    if silent:
        return Status.REFUSED, record.refusal_reason or ""
    if question.expected:
        verdict = judge(record.answer, question.expected, question.not_expected)
        right = verdict.right
        why = "; ".join(
            [f"lacks {one}" for one in verdict.missing] + [f"competing value {one}" for one in verdict.competing]
        )
    else:
        right = _cites(question, record)
        why = "" if right else "cites none of the expected documents"
    # "It does not say" may hold an expected `no`, which is no answer to whether something is so.
    if in_words and (not right or (question.kind == YES_NO and not begins_yes_or_no(record.answer))):
        return Status.REFUSED, "in words"
    return (Status.RIGHT, "") if right else (Status.WRONG, why)


def _cites(question: Question, record: AnswerRecord) -> bool:
    return any(is_from(question.documents, one) for one in record.citations)


def evidence_found(question: Question, passages: Iterable[Passage]) -> bool | None:
    """Whether one passage, of an expected document where there are any, holds the answer or all of the evidence.

    None for a question that names neither words nor documents. With documents alone, a passage of one is enough.
    """
    parts = [part for part in question.evidence.split("…") if part.strip()]
    if not (question.expected or parts or question.documents):
        return None
    for passage in passages:
        if question.documents and not is_from(question.documents, passage):
            continue
        if not question.expected and not parts:
            return True
        text = Folded.of(passage.text)
        if question.expected and all(any(holds(text, one) for one in group) for group in question.expected):
            return True
        if parts and in_order(text, parts):
            return True
    return False


def is_from(documents: Iterable[str], source: Source) -> bool:
    """Whether a passage or citation is of one of the documents, by id or file name, with or without its folders."""
    name = unicodedata.normalize("NFC", source.filename)
    for document in documents:
        wanted = unicodedata.normalize("NFC", document)
        if source.document_id == document or name == wanted or PurePosixPath(name).name == wanted:
            return True
    return False
