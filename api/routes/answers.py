"""Search, ask, feedback."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from api.questions import check_length, find_collection_id, first_then_rest, in_turn
from api.schemas.answers import (
    AnswerBody,
    AskBody,
    FeedbackAnswer,
    FeedbackBody,
    SearchAnswer,
    SearchBody,
    SearchItem,
)
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from api.streaming import EventStream, StreamPool, problem_in_stream, sse
from core.access import Principal, access_filter
from core.answer_format import parse_response_format
from core.repositories.derived import ratable_answer
from core.types import Message, Scope
from generation.answer import AnswerEvent, AnswerRecord, AnswerStream, AskOptions

router = APIRouter(route_class=GuardedRoute, tags=["answers"])


@router.post("/v1/search", dependencies=[needs(Scope.QUERY)])
async def search(body: SearchBody, request: Request, caller: Caller, services: ServicesOf) -> SearchAnswer:
    """Find passages, best first, without asking the generator."""
    check_length(services.settings, body.query, "query")
    return await in_turn(request, caller, lambda: _found(body, caller, services))


def _found(body: SearchBody, caller: Principal, services: Services) -> SearchAnswer:
    access = access_filter(caller, collection_id=find_collection_id(services.db, caller, body.collection))
    found = services.searcher.search(
        body.query,
        access,
        body.limit,
        document_filters=body.filters,
        diversity=body.diversity,
        expand_tokens=body.expand_tokens,
    )
    return SearchAnswer(
        items=[SearchItem.model_validate(passage) for passage in found.passages],
        timings_ms=found.timings_ms,
    )


@router.post(
    "/v1/ask",
    dependencies=[needs(Scope.QUERY)],
    response_model=AnswerBody,
    responses={200: {"content": {"text/event-stream": {}}}},
)
async def ask(body: AskBody, request: Request, caller: Caller, services: ServicesOf) -> Any:
    """Answer a question from the documents. `stream: true` sends the events meta, token, citation, done (or error)."""
    check_length(services.settings, body.question, "question")
    for turn in body.history:
        check_length(services.settings, turn.content, "history")
    options = AskOptions(
        collection=body.collection,
        conversation_id=body.conversation_id,
        adapter=body.adapter,
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        expand_tokens=body.expand_tokens,
        answer_format=parse_response_format(body.response_format),
        history=tuple(Message(turn.role, turn.content) for turn in body.history),
        examples=body.examples,
        reasoning=body.reasoning,
        best_of=body.best_of,
    )
    stream = await in_turn(request, caller, lambda: services.answers.ask(caller, body.question, options))
    pool: StreamPool = request.app.state.streams
    if not body.stream:
        events = await pool.collect(request, stream, stream.cancel)
        record = next(event.record for event in reversed(events) if event.record is not None)
        count_answer(request, record)
        return answer_body(record)
    return await stream_answer(request, stream)


async def stream_answer(request: Request, stream: AnswerStream) -> Response:
    """Server-sent events of an answer. What fails before the first event is still an ordinary problem response."""
    pool: StreamPool = request.app.state.streams
    events = await first_then_rest(pool.iterate(stream, stream.cancel))

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(events):
                async for event in events:
                    if event.record is not None:
                        count_answer(request, event.record)
                    yield _event_bytes(event)
        except Exception as error:  # noqa: BLE001 - the status is sent; the stream is the only place left to say it
            yield sse("error", problem_in_stream(request, error))

    return EventStream(request, body())


def _event_bytes(event: AnswerEvent) -> bytes:
    if event.meta is not None:
        return sse(event.kind, event.meta)
    if event.citation is not None:
        return sse(event.kind, asdict(event.citation))
    if event.record is not None:
        return sse(event.kind, answer_body(event.record).model_dump(mode="json"))
    return sse(event.kind, {"text": event.text or ""})


def answer_body(record: AnswerRecord) -> AnswerBody:
    """Answer in the shape of the contract."""
    return AnswerBody.model_validate(record)


def count_answer(request: Request, record: AnswerRecord) -> None:
    """Count an answer by how it came out."""
    outcome = record.refusal_reason or ("cancelled" if record.finish_reason == "cancelled" else "answered")
    request.app.state.metrics.answers.labels(outcome).inc()


@router.post("/v1/answers/{answer_id}/feedback", status_code=201, dependencies=[needs(Scope.FEEDBACK)])
def give_feedback(answer_id: str, body: FeedbackBody, caller: Caller, services: ServicesOf) -> FeedbackAnswer:
    """Rate an answer, and say what it should have been: one's own, or one whose documents the caller may read."""
    with services.db.read() as session:
        ratable_answer(session, caller, answer_id)
    stored = services.answers.feedback(
        caller,
        answer_id,
        rating=body.rating,
        correction=body.correction,
        comment=body.comment,
        consent=body.consent,
    )
    return FeedbackAnswer.model_validate(stored)
