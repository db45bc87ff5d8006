"""Composition of an answer: resolve the version, search, refuse or generate, cite, store.

The order matters. The adapter version is pinned first, so that a promotion in mid-request cannot change what the
answer is stamped with; the refusal comes before the model, so that nothing is invented about nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select

from core import tracing
from core.access import Principal, access_filter
from core.database import Database
from core.errors import InvalidInput, NotFound, Unavailable
from core.gpu import serving_pause
from core.measures import observe_stage
from core.ports import Engine, GenerationHandle
from core.settings import Settings
from core.tables import Answer, Collection, Feedback
from core.tables.base import new_id, utc_now
from core.types import AccessFilter, AdapterRef, GenerationRequest, Message, Passage
from generation.adapters.routing import Route
from generation.answer_stream import AnswerDraft, AnswerStream, elapsed_ms
from generation.asking import (
    BELOW_THRESHOLD,
    NO_PASSAGES,
    NOT_IN_PASSAGES,
    AnswerEvent,
    AnswerRecord,
    AskOptions,
    Beside,
    Routing,
    Search,
    SearchResult,
    Stamp,
)
from generation.citations import cite
from generation.condense import LONGEST_CHAIN, leans_back, rewritten_query, search_query
from generation.curated import find_curated, similar_examples
from generation.deliberation import Deliberation, Plan
from generation.evidence.compose import ComposedAnswer, computed_evidence, computed_verdict, line_verdict, reads_well
from generation.evidence.computed import Computed, compute
from generation.evidence.in_force import parameters_in_force
from generation.evidence.parameters import EvidenceParameters
from generation.evidence.question import read_question
from generation.evidence.stage import EVIDENCE_PASSAGES, Evidence, gather
from generation.fitting import fitted
from generation.json_answers import PROMPT_SUFFIX, cite_json, format_hint
from generation.orders import without_orders
from generation.prompt import PROMPT_VERSION, PromptPassage, only_question, render_grounded
from retrieval.document_text import DocumentTexts

__all__ = [
    "BELOW_THRESHOLD",
    "NOT_IN_PASSAGES",
    "NO_PASSAGES",
    "AnswerDraft",
    "AnswerEvent",
    "AnswerRecord",
    "AnswerService",
    "AnswerStream",
    "AskOptions",
    "Stamp",
]


QUERY_TOKENS = 64
"""Longest search query that a model may write."""


class AnswerService:
    """Answers questions and takes feedback on them."""

    def __init__(
        self,
        db: Database,
        search: Search,
        engine: Engine,
        routing: Routing,
        settings: Settings,
        *,
        stamp: Stamp,
        beside: Beside | None = None,
        parameters: EvidenceParameters | None = None,
        texts: DocumentTexts | None = None,
    ) -> None:
        """parameters: of the evidence stage; default are those in force for the caller's tenant.

        texts: None computes nothing over tables.
        """
        self._texts = texts
        self._parameters = parameters
        self._db = db
        self._search = search
        self._engine = engine
        self._routing = routing
        self._settings = settings
        self._stamp = stamp
        self._beside = beside

    def ask(self, principal: Principal, question: str, options: AskOptions | None = None) -> AnswerStream:
        """Start an answer; everything that can be refused is refused here, before the first event.

        Raises:
            InvalidInput: the question is empty.
            NotFound: unknown collection, family or version.
            Unavailable: the generator's queue is full, or `serving_paused`: its memory is lent to a training.
        """
        options = options or AskOptions()
        question = question.strip()
        if not question:
            raise InvalidInput("the question is empty", code="empty_question")
        begun = time.perf_counter()
        answer_id = new_id("ans")
        route = self._route(principal, options, answer_id)
        adapter = route.adapter
        access = access_filter(principal, collection_id=self._collection_id(principal, options.collection))
        curated, pause = None, None
        with self._db.read() as session:
            parameters = self._parameters or parameters_in_force(session, principal.tenant_id)
            if options.answer_format is None:  # what people wrote is text, and would break whoever reads JSON
                curated = find_curated(session, principal, question, route.version_id)
            if self._settings.gpu.while_training == "sleep":
                pause = serving_pause(session, utc_now())
            examples = similar_examples(session, principal, question, options.examples) if options.examples else []
        query = self._query(principal, question, options)
        quotes = self._quotes(options)
        found = self._search.search(
            query,
            access,
            max(self._settings.retrieval.passages, EVIDENCE_PASSAGES),
            expand_tokens=options.expand_tokens,
        )
        evidence = gather(
            query,
            found.passages,
            parameters,
            today=utc_now().date(),
            siblings=found.siblings,
            bridge=found.bridge,
        )
        passages = self._shown(found, evidence, quotes=quotes)
        computed = self._compute(query, access, found) if quotes and curated is None else None
        if computed is not None:
            evidence = computed_evidence(computed)
            # A passage of each document that it stands on: at most two, of which an edition and the one before.
            passages = _in_order_of_evidence(found, evidence)[: max(self._settings.retrieval.passages, 2)]
        retrieved = time.perf_counter()
        observe_stage("retrieve", retrieved - begun)
        tracing.record("retrieve", retrieved - begun, passages=len(passages))
        reason = self._refusal(found, evidence, parameters.refuse if quotes and not reads_well(evidence) else None)
        handle: GenerationHandle | None = None
        request = None
        shots = tuple(
            Message(role, text) for pair in examples for role, text in zip(("user", "assistant"), pair, strict=True)
        )
        options = replace(options, history=(*shots, *options.history))
        verdict = None
        if curated is not None:
            reason = None
        elif computed is not None:
            reason, verdict = None, computed_verdict(computed)
        elif reason is None and quotes and not _asks_model(route, evidence):
            verdict = line_verdict(evidence, parameters)
        elif reason is None:
            if pause is not None:
                raise Unavailable(
                    "the generator's memory is lent to a training; it answers again afterwards",
                    code="serving_paused",
                    extra={"retry_after_s": math.ceil(pause)},
                )
            passages = fitted(passages, lambda shown: self._fits(self._request(question, shown, adapter, options)))
            request = replace(self._request(question, passages, adapter, options), tenant_id=principal.tenant_id)
            handle = self._submit(request, question, passages, options)
            if quotes:
                handle = ComposedAnswer(handle, question, evidence, passages, parameters, styled=adapter is not None)
        return AnswerStream(
            AnswerDraft(
                principal=principal,
                question=question,
                options=options,
                route=route,
                request=request,
                passages=passages,
                evidence=evidence,
                refusal_reason=reason,
                provenance=self._provenance(adapter, found, options)
                | ({"curated": curated.id} if curated else {})
                | route.trial,
                timings_ms={"retrieve": elapsed_ms(begun, retrieved)},
                begun=begun,
                curated=curated,
                verdict=verdict,
                id=answer_id,
            ),
            handle,
            self._db,
            self._beside,
        )

    def _submit(
        self, request: GenerationRequest, question: str, passages: Sequence[Passage], options: AskOptions
    ) -> GenerationHandle:
        if options.reasoning or options.best_of > 1:
            plan = Plan(request, question, options.reasoning, options.best_of)
            return Deliberation(self._engine, plan, lambda text: _support(text, passages, question, options))
        return self._engine.submit(request)

    def _route(self, principal: Principal, options: AskOptions, answer_id: str) -> Route:
        """The version of a request; what is not recorded belongs to no trial by itself."""
        request_id = answer_id if options.recorded else None
        return self._routing.route(
            principal, options.adapter, options.conversation_id, user=options.user, request_id=request_id
        )

    def _compute(self, query: str, access: AccessFilter, found: SearchResult) -> Computed | None:
        """An answer computed over the rows of the tables found; None: the question asks for none, or is unclear."""
        texts = self._texts
        if texts is None:
            return None
        today = utc_now().date()
        return compute(read_question(query), found.passages, lambda passage: texts.read(access, passage), today)

    def _quotes(self, options: AskOptions) -> bool:
        """Whether the answer is the best line unless the model's words are borne out by it.

        A small model reads worse than the line says; a large one is given the passages and believed as far as its
        citations are verified. What has a form of its own (JSON, reasoning, the best of several) is the model's.
        """
        composed = self._settings.generation.compose
        if options.answer_format is not None or options.reasoning or options.best_of > 1:
            return False
        return composed == "evidence" or (composed == "auto" and self._settings.generation.engine == "transformers")

    def _shown(self, found: SearchResult, evidence: Evidence, *, quotes: bool) -> tuple[Passage, ...]:
        """What the model reads: the best lines; whole passages where it is large, or where they are running text."""
        number = self._settings.retrieval.passages
        if not quotes:
            return _in_order_of_evidence(found, evidence)[:number]
        if evidence.lines and evidence.lines[0].prose:
            return tuple(found.passages[:number])
        return tuple(line.passage for line in evidence.lines)

    def _refusal(self, found: SearchResult, evidence: Evidence, least: float | None) -> str | None:
        """Why nothing is answered, before the model is asked. least: confidence; None where no line is to be quoted."""
        if not found.passages:
            return NO_PASSAGES
        if least is not None and (not evidence.lines or evidence.confidence < least):
            return BELOW_THRESHOLD
        override = self._settings.retrieval.refusal_threshold
        if override is None and least is not None:
            return None
        threshold = found.refusal_threshold if override is None else override
        return BELOW_THRESHOLD if max(passage.relevance for passage in found.passages) < threshold else None

    def _query(self, principal: Principal, question: str, options: AskOptions) -> str:
        """What is searched for: the question, with what it leaves to the conversation."""
        how = self._settings.retrieval.condense_history
        if how == "off":
            return question
        if not options.history:
            return search_query(question, self._asked_before(principal, question, options.conversation_id))
        if how == "rules":
            return search_query(question, options.history)
        return rewritten_query(
            question,
            options.history,
            lambda messages: (
                self._engine.submit(GenerationRequest(messages, None, QUERY_TOKENS, tenant_id=principal.tenant_id))
                .result()
                .text
            ),
        )

    def _asked_before(self, principal: Principal, question: str, conversation_id: str | None) -> list[Message]:
        """Earlier questions of a conversation, oldest first: those of the same key, for ids can be guessed."""
        if conversation_id is None or not leans_back(question):
            return []
        with self._db.read() as session:
            rows = session.scalars(
                select(Answer.question)
                .where(Answer.tenant_id == principal.tenant_id, Answer.key_id == principal.key_id)
                .where(Answer.conversation_id == conversation_id)
                .order_by(Answer.created_at.desc(), Answer.id.desc())
                .limit(LONGEST_CHAIN)
            ).all()
        return [Message("user", row) for row in reversed(rows)]

    def feedback(
        self,
        principal: Principal,
        answer_id: str,
        *,
        rating: str,
        correction: str | None = None,
        comment: str | None = None,
        consent: bool = False,
    ) -> Feedback:
        """Store what somebody says of an answer of the same tenant.

        Raises:
            NotFound: no such answer in the caller's tenant.
        """
        with self._db.write() as session:
            answer = session.get(Answer, answer_id)
            if answer is None or answer.tenant_id != principal.tenant_id:
                raise NotFound(f"no answer {answer_id!r}")
            row = Feedback(
                tenant_id=principal.tenant_id,
                answer_id=answer_id,
                key_id=principal.key_id,
                rating=rating,
                correction=correction,
                comment=comment,
                consent=consent,
            )
            session.add(row)
            return row

    def _collection_id(self, principal: Principal, name: str | None) -> str | None:
        if name is None:
            return None
        with self._db.read() as session:
            found = session.scalar(
                select(Collection.id).where(Collection.tenant_id == principal.tenant_id, Collection.name == name)
            )
        if found is None:
            raise NotFound(f"no collection {name!r}", code="collection_not_found")
        return found

    def _request(
        self, question: str, passages: Sequence[Passage], adapter: AdapterRef | None, options: AskOptions
    ) -> GenerationRequest:
        limits = self._settings.generation
        shown = [PromptPassage(passage.text, passage.heading or passage.filename) for passage in passages]
        question = only_question(question)
        if options.answer_format is not None:
            question = f"{question}\n{format_hint(options.answer_format)}"
        if limits.leave_out_orders:
            shown = [PromptPassage(without_orders(one.text).text, _title(one.title)) for one in shown]
        return GenerationRequest(
            messages=render_grounded(question, shown, history=options.history),
            adapter=adapter,
            max_tokens=min(options.max_tokens or limits.max_tokens, limits.context_tokens),
            temperature=options.temperature or 0.0,
            top_p=options.top_p if options.top_p is not None else 1.0,
            stop=options.stop,
            seed=options.seed,
            answer_format=options.answer_format,
        )

    def _fits(self, request: GenerationRequest) -> bool:
        used = self._engine.count_prompt_tokens(request.messages) + request.max_tokens
        return used <= self._settings.generation.context_tokens

    def _provenance(self, adapter: AdapterRef | None, found: SearchResult, options: AskOptions) -> dict[str, Any]:
        return {
            "adapter": adapter.stamp if adapter else None,
            "base_model": self._engine.base_model,
            "index_version": found.index_version or self._stamp.index_version,
            "embedder": found.embedder or self._stamp.embedder,
            "prompt_version": PROMPT_VERSION + (PROMPT_SUFFIX if options.answer_format else ""),
        } | self._left_out(found)

    def _left_out(self, found: SearchResult) -> dict[str, int]:
        """How many sentences of the passages were kept from the model, where there are any."""
        if not self._settings.generation.leave_out_orders:
            return {}
        count = sum(without_orders(passage.text).left_out for passage in found.passages)
        return {"orders_left_out": count} if count else {}


def _asks_model(route: Route, evidence: Evidence) -> bool:
    """Whether the model's words could be given, or measured: an adapter's style, a version on trial, running text."""
    on_trial = route.arm is not None or route.shadow is not None
    return route.adapter is not None or on_trial or reads_well(evidence)


def _in_order_of_evidence(found: SearchResult, evidence: Evidence) -> tuple[Passage, ...]:
    """The passages that hold the best lines first, then the others as they were found."""
    first = list(dict.fromkeys(line.passage.chunk_id for line in evidence.lines))
    place = {chunk_id: at for at, chunk_id in enumerate(first)}
    return tuple(sorted(found.passages, key=lambda passage: place.get(passage.chunk_id, len(first))))


def _support(answer: str, passages: Sequence[Passage], question: str, options: AskOptions) -> float:
    """Share of an answer's citations that are verified; 0 without any."""
    cited = (cite if options.answer_format is None else cite_json)(answer, passages, question=question)
    return sum(one.verified for one in cited) / len(cited) if cited else 0.0


def _title(title: str | None) -> str | None:
    return without_orders(title).text if title else title
