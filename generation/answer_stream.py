"""An answer on its way: events while it is generated, then citations, the stored row, the figures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from core import tracing
from core.access import Principal
from core.database import Database
from core.environment import STORAGE_CODES, environment_fault
from core.errors import TsumugiError
from core.measures import observe_answer
from core.ports import GenerationHandle
from core.repositories.erasures import any_erased
from core.tables import Answer, AnswerFailure, DocumentGroup
from core.tables.base import new_id
from core.types import Citation, GenerationRequest, Passage
from generation.adapters.routing import Route
from generation.asking import NOT_IN_PASSAGES, AnswerEvent, AnswerRecord, AskOptions, Beside
from generation.canary.shadow import ShadowRequest
from generation.citations import cite
from generation.curated import Curated
from generation.deliberation import Deliberation
from generation.evidence.compose import AnsweredBy, ComposedAnswer, Verdict, lines_as_json
from generation.evidence.stage import Evidence
from generation.json_answers import cite_json
from generation.prompt import is_not_found, not_found_text

log = structlog.stdlib.get_logger(__name__)

NEAREST = 3
"""Lines offered with a refusal."""


@dataclass(frozen=True, slots=True)
class AnswerDraft:
    """All that is known of an answer before its first token."""

    principal: Principal
    question: str
    options: AskOptions
    route: Route
    request: GenerationRequest | None
    """What was submitted; None where the model was not asked."""
    passages: tuple[Passage, ...]
    evidence: Evidence
    refusal_reason: str | None
    provenance: dict[str, Any]
    timings_ms: dict[str, float]
    begun: float
    curated: Curated | None = None
    """Given instead of a generated answer."""
    verdict: Verdict | None = None
    """Computed over rows, or the best line as it stands: given instead of a generated answer."""
    id: str = field(default_factory=lambda: new_id("ans"))


class AnswerStream:
    """An answer on its way: iterate for events, or call `final`. The tokens add up to the stored answer.

    Dropping the iterator half-way cancels the generation, and nothing is stored.
    """

    def __init__(
        self, draft: AnswerDraft, handle: GenerationHandle | None, db: Database, beside: Beside | None = None
    ) -> None:
        self.draft = draft
        self._handle = handle
        self._db = db
        self._beside = beside
        self._record: AnswerRecord | None = None
        self._thoughts: list[str] = []

    def __iter__(self) -> Iterator[AnswerEvent]:
        draft = self.draft
        yield AnswerEvent("meta", meta={"id": draft.id, "provenance": draft.provenance})
        pieces: list[str] = []
        try:
            if isinstance(self._handle, Deliberation):
                for text in _trimmed(self._handle.thoughts()):
                    self._thoughts.append(text)
                    yield AnswerEvent("reasoning", text=text)
            for text in _trimmed(self._handle or [self._ready()]):
                if not pieces:
                    draft.timings_ms["first_token"] = elapsed_ms(draft.begun, time.perf_counter())
                pieces.append(text)
                yield AnswerEvent("token", text=text)
        except GeneratorExit:
            self.cancel()
            raise
        except TsumugiError as error:
            self._store_failure(error)
            raise
        record = self._finish("".join(pieces))
        for citation in record.citations:
            yield AnswerEvent("citation", citation=citation)
        yield AnswerEvent("done", record=record)

    def _ready(self) -> str:
        """The answer for which the model was not asked."""
        draft = self.draft
        if draft.curated is not None:
            return draft.curated.answer
        return draft.verdict.text if draft.verdict is not None else not_found_text(draft.question)

    def final(self) -> AnswerRecord:
        """Run to the end and return the stored answer."""
        if self._record is None:
            for _event in self:
                pass
        assert self._record is not None
        return self._record

    def cancel(self) -> None:
        """Stop generating: the asker has gone. Whoever iterates on gets the stored answer as far as it came."""
        if self._handle is not None:
            self._handle.cancel()

    def _finish(self, answer: str) -> AnswerRecord:
        draft = self.draft
        result = self._handle.result() if self._handle is not None else None
        reason = draft.refusal_reason
        verdict = self._handle.verdict if isinstance(self._handle, ComposedAnswer) else draft.verdict
        if verdict is not None:
            reason = NOT_IN_PASSAGES if verdict.answered_by is AnsweredBy.NOBODY else None
        elif reason is None and draft.curated is None and is_not_found(answer):
            reason = NOT_IN_PASSAGES
        confidence = None if draft.curated else verdict.confidence if verdict else draft.evidence.confidence
        provenance = draft.provenance
        if verdict is not None:
            provenance = provenance | verdict.provenance
        ended = time.perf_counter()
        timings = dict(draft.timings_ms)
        timings["generate"] = round(elapsed_ms(draft.begun, ended) - timings["retrieve"], 3)
        timings["total"] = elapsed_ms(draft.begun, ended)
        record = AnswerRecord(
            id=draft.id,
            answer=answer,
            refused=reason is not None,
            refusal_reason=reason,
            citations=() if reason else verdict.citations if verdict else self._citations(answer),
            provenance=provenance,
            usage={
                "prompt_tokens": result.prompt_tokens if result else 0,
                "completion_tokens": result.completion_tokens if result else 0,
                "total_tokens": result.prompt_tokens + result.completion_tokens if result else 0,
            },
            timings_ms=timings,
            finish_reason=result.finish_reason if result else "stop",
            passages=draft.passages,
            reasoning="".join(self._thoughts) or None,
            confidence=None if confidence is None else round(confidence, 4),
            evidence=() if reason else tuple(lines_as_json(draft.evidence.lines)),
            alternatives=() if reason else tuple(lines_as_json(draft.evidence.alternatives)),
            nearest=tuple(lines_as_json(draft.evidence.lines[:NEAREST])) if reason else (),
        )
        if draft.request is not None:
            adapter = draft.provenance["adapter"]
            observe_answer(adapter, timings, record.usage["completion_tokens"])
            tracing.record(
                "generate",
                timings["generate"] / 1000,
                answer_id=record.id,
                adapter=adapter or "base",
                tokens=record.usage["completion_tokens"],
                first_token_ms=timings.get("first_token", 0.0),
            )
        recorded = draft.options.recorded and self._keep(record)
        self._record = record
        plain = draft.options.answer_format is None and not isinstance(self._handle, Deliberation)
        plain = plain and recorded
        shadowed = self._beside is not None and draft.route.shadow is not None and plain
        if shadowed and self._beside is not None and draft.request is not None:
            self._beside.offer(
                ShadowRequest(
                    request=draft.request,
                    route=draft.route,
                    tenant_id=draft.principal.tenant_id,
                    answer_id=record.id,
                    question=draft.question,
                    passages=draft.passages,
                    answer=record.answer,
                    citations=record.citations,
                    refused=record.refused,
                    generate_ms=timings["generate"],
                )
            )
        return record

    def _citations(self, answer: str) -> tuple[Citation, ...]:
        draft = self.draft
        how = cite if draft.options.answer_format is None else cite_json
        return tuple(how(answer, draft.passages, question=draft.question))

    def _store_failure(self, error: TsumugiError) -> None:
        """An answer that broke off has no row of its own, and a canary that breaks off must be noticed."""
        draft = self.draft
        if not draft.options.recorded:
            return
        with self._db.write() as session:
            session.add(
                AnswerFailure(
                    tenant_id=draft.principal.tenant_id,
                    family_id=draft.route.family_id,
                    arm=draft.route.arm,
                    conversation_id=draft.route.unit.id if draft.route.unit else draft.options.conversation_id,
                    adapter_version_id=draft.route.version_id,
                    code=error.code[:64],
                )
            )

    def _keep(self, record: AnswerRecord) -> bool:
        """Store the answer; False where the disk takes nothing: that costs the record of it, not the answer."""
        try:
            self._store(record)
        except (OperationalError, OSError) as error:
            fault = environment_fault(error)
            if fault is None or fault.code not in STORAGE_CODES:
                raise
            log.warning("answer.not_recorded", answer_id=record.id, code=fault.code, detail=fault.detail)
            return False
        return True

    def _store(self, record: AnswerRecord) -> None:
        draft, adapter = self.draft, self.draft.route.adapter
        with self._db.write() as session:
            read = {passage.document_id for passage in record.passages}
            if any_erased(session, read):
                return  # erased while this answer was being written: it was given, and is not kept
            groups = session.scalars(
                select(DocumentGroup.group_name).where(DocumentGroup.document_id.in_(read)).distinct()
            )
            session.add(
                Answer(
                    id=record.id,
                    tenant_id=draft.principal.tenant_id,
                    key_id=draft.principal.key_id,
                    conversation_id=draft.options.conversation_id,
                    question=draft.question,
                    answer=record.answer,
                    refused=record.refused,
                    refusal_reason=record.refusal_reason,
                    citations=[asdict(citation) for citation in record.citations],
                    passages=[
                        {
                            "chunk_id": passage.chunk_id,
                            "document_id": passage.document_id,
                            "generation": passage.generation,
                            "score": passage.score,
                            "relevance": passage.relevance,
                        }
                        | ({"start": passage.start, "end": passage.end} if passage.hit_start is not None else {})
                        for passage in record.passages
                    ],
                    groups=sorted(groups),
                    confidence=record.confidence,
                    evidence={
                        "lines": list(record.evidence),
                        "alternatives": list(record.alternatives),
                        "nearest": list(record.nearest),
                    },
                    provenance={**record.provenance, "adapter_digest": adapter.digest if adapter else None},
                    usage=record.usage,
                    timings_ms=record.timings_ms,
                    adapter_version_id=draft.route.version_id,
                    family_id=draft.route.family_id,
                    # What neither adapter was asked for is no answer of either.
                    arm=draft.route.arm if draft.request is not None else None,
                    parameters={
                        "max_tokens": draft.options.max_tokens,
                        "temperature": draft.options.temperature,
                        "top_p": draft.options.top_p,
                        "seed": draft.options.seed,
                        "examples": draft.options.examples,
                        "reasoning": draft.options.reasoning,
                        "best_of": draft.options.best_of,
                        "response_format": asdict(draft.options.answer_format) if draft.options.answer_format else None,
                    },
                )
            )


def _trimmed(pieces: Iterator[str] | Sequence[str] | GenerationHandle) -> Iterator[str]:
    """Pass pieces on without the white space at both ends of the whole, keeping what lies between."""
    started, held = False, ""
    for piece in pieces:
        text = held + piece
        if not started:
            text = text.lstrip()
        body = text.rstrip()
        held = text[len(body) :] if (started or body) else ""
        if body:
            started = True
            yield body


def elapsed_ms(begin: float, end: float) -> float:
    """Milliseconds between two readings of `time.perf_counter`."""
    return round((end - begin) * 1000, 3)
