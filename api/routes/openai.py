"""OpenAI-compatible routes: the same answers as /v1/ask, in the shape that existing clients read.

Citations come twice: as `message.annotations` of type `url_citation`, which OpenAI's client types know, and whole as
top-level `citations` (in a stream: on the last chunk that has a choice).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from api.questions import check_length, first_then_rest, in_turn
from api.routes.answers import count_answer
from api.schemas.openai import ChatBody
from api.security import Caller, GuardedRoute, ServicesOf, needs
from api.services import Services
from api.streaming import EventStream, StreamPool, problem_in_stream, sse, to_json
from core.access import Principal
from core.answer_format import parse_response_format
from core.errors import InvalidInput, NotFound
from core.types import Scope
from generation.answer import (
    BELOW_THRESHOLD,
    NO_PASSAGES,
    AnswerEvent,
    AnswerRecord,
    AnswerStream,
    AskOptions,
)

router = APIRouter(route_class=GuardedRoute, tags=["openai"])

PREFIX = "tsumugi"


@router.post("/v1/chat/completions", dependencies=[needs(Scope.QUERY)])
async def chat_completions(body: ChatBody, request: Request, caller: Caller, services: ServicesOf) -> Any:
    """Answer the last user message from the documents, with the turns before it as context."""
    body.refuse_unsupported()
    question, history = body.split()
    if not question.strip():
        raise InvalidInput("the last message is empty", code="empty_question")
    check_length(services.settings, question, "messages")
    for turn in history:
        check_length(services.settings, turn.content, "messages")
    options = AskOptions(
        collection=body.collection,
        conversation_id=body.conversation_id,
        user=body.asker,
        adapter=body.model,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        stop=body.stop_texts,
        seed=body.seed,
        history=history,
        answer_format=parse_response_format(body.response_format),
        examples=body.examples,
        reasoning=body.reasoning,
        best_of=body.best_of,
    )
    stream = await in_turn(request, caller, lambda: _start(services, caller, question, options))
    if not body.stream:
        pool: StreamPool = request.app.state.streams
        events = await pool.collect(request, stream, stream.cancel)
        record = next(event.record for event in reversed(events) if event.record is not None)
        count_answer(request, record)
        structured = options.answer_format is not None
        return _completion(body.model, record, str(request.base_url), structured=structured)
    include_usage = body.stream_options is not None and body.stream_options.include_usage
    return await _stream(request, body.model, stream, include_usage=include_usage)


def _start(services: Services, caller: Principal, question: str, options: AskOptions) -> AnswerStream:
    name = options.adapter or PREFIX
    if name != PREFIX and not name.startswith(f"{PREFIX}:"):
        raise model_not_found(name)
    try:
        return services.answers.ask(caller, question, options)
    except NotFound as error:
        if error.code == "collection_not_found":
            raise
        raise model_not_found(name) from error


def model_not_found(name: str) -> NotFound:
    """The answer to any model that this tenant does not have; it never falls back to the base."""
    return NotFound(f"no model {name!r}; GET /v1/models lists them", code="model_not_found")


def _completion(model: str, record: AnswerRecord, base_url: str, *, structured: bool) -> dict[str, Any]:
    refusal = record.answer if structured and record.refusal_reason in {NO_PASSAGES, BELOW_THRESHOLD} else None
    return {
        "id": f"chatcmpl-{record.id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": None if refusal else record.answer,
                    "refusal": refusal,
                    **({"reasoning_content": record.reasoning} if record.reasoning else {}),
                    "annotations": _annotations(record, base_url),
                },
                "logprobs": None,
                "finish_reason": _finish_reason(record),
            }
        ],
        "usage": record.usage,
        **_own_members(record),
    }


def _own_members(record: AnswerRecord) -> dict[str, Any]:
    return {
        "citations": [asdict(citation) for citation in record.citations],
        "answer_id": record.id,
        "refused": record.refused,
        "refusal_reason": record.refusal_reason,
        "provenance": record.provenance,
        "timings_ms": record.timings_ms,
    }


def _annotations(record: AnswerRecord, base_url: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": citation.answer_start,
                "end_index": citation.answer_end,
                "title": citation.filename,
                "url": f"{base_url}v1/documents/{citation.document_id}/content",
            },
        }
        for citation in record.citations
    ]


def _finish_reason(record: AnswerRecord) -> str:
    return "length" if record.finish_reason == "length" else "stop"


async def _stream(request: Request, model: str, stream: AnswerStream, *, include_usage: bool) -> EventStream:
    pool: StreamPool = request.app.state.streams
    events = await first_then_rest(pool.iterate(stream, stream.cancel))
    base_url = str(request.base_url)
    head: dict[str, Any] = {
        "id": f"chatcmpl-{stream.draft.id}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }

    draft = stream.draft
    # Whoever asked for JSON parses the content; a refusal that no model wrote is no JSON, and goes where OpenAI's does.
    member = "refusal" if draft.options.answer_format is not None and draft.request is None else "content"

    def chunks_of(event: AnswerEvent) -> list[dict[str, Any]]:
        if event.meta is not None:
            return [_chunk(head, {"role": "assistant", "content": ""})]
        if event.text is not None:
            return [_chunk(head, {"reasoning_content" if event.kind == "reasoning" else member: event.text})]
        if event.record is None:
            return []  # citations ride on the last chunk
        record = event.record
        count_answer(request, record)
        delta = {"annotations": _annotations(record, base_url)}
        last = [{**_chunk(head, delta, _finish_reason(record)), **_own_members(record)}]
        if include_usage:
            last.append({**head, "choices": [], "usage": record.usage})
        return last

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(events):
                async for event in events:
                    for chunk in chunks_of(event):
                        yield sse(None, {**chunk, "usage": chunk.get("usage")} if include_usage else chunk)
            yield sse(None, "[DONE]")
        except Exception as error:  # noqa: BLE001 - the status is sent; OpenAI's client raises on an `error` member
            yield _error_chunk(request, error)

    return EventStream(request, body(), _error_chunk)


def _error_chunk(request: Request, error: Exception) -> bytes:
    problem = problem_in_stream(request, error)
    message = {"message": problem["detail"], "type": "server_error", "param": None, "code": problem["code"]}
    return sse(None, to_json({**problem, "error": message}))


def _chunk(head: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**head, "choices": [choice]}


@router.get("/v1/models", dependencies=[needs(Scope.QUERY)])
def list_models(caller: Caller, services: ServicesOf) -> dict[str, Any]:
    """Every name that `model` takes, for this tenant."""
    return {"object": "list", "data": _models(services, caller)}


@router.get("/v1/models/{model:path}", dependencies=[needs(Scope.QUERY)])
def get_model(model: str, caller: Caller, services: ServicesOf) -> dict[str, Any]:
    """One model."""
    for entry in _models(services, caller):
        if entry["id"] == model:
            return entry
    raise model_not_found(model)


def _models(services: Services, caller: Principal) -> list[dict[str, Any]]:
    names = services.router.model_names(caller)
    return [{"id": name, "object": "model", "created": 0, "owned_by": PREFIX} for name in names]
