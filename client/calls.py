"""The calls of the API, each described once: how it is asked, and what its answer means. Both clients send these.

A method of a client is a `Method` of the common `Surface`: on `Tsumugi` it gives the value, on `AsyncTsumugi` an
awaitable of it, and type checkers know which.
"""

from __future__ import annotations

import functools
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from client.models import Answer, Document, Erasure, Evaluation, EvaluationOutcome, Job, Passage, Uploaded

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, ready to be sent any number of times."""

    method: str
    path: str
    parse: Callable[[Any], T]
    """What its JSON means."""
    params: Mapping[str, Any] = field(default_factory=dict)
    json: Any = None
    data: Mapping[str, str] | None = None
    files: list[tuple[str, tuple[str, bytes]]] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    """Whether it may be sent again when the service may have worked on it already."""

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of httpx."""
        given = {"params": dict(self.params), "json": self.json, "data": self.data, "files": self.files}
        return {name: value for name, value in given.items() if value is not None} | {"headers": dict(self.headers)}


class Sending:
    """A client that sends and waits."""

    def _send(self, call: Call[T]) -> T:
        raise NotImplementedError


class SendingAsync:
    """A client that is awaited."""

    async def _send(self, call: Call[T]) -> T:
        raise NotImplementedError


class Method(Generic[P, T]):
    """A call as a method of both clients."""

    def __init__(self, describe: Callable[P, Call[T]]) -> None:
        self._describe = describe
        functools.update_wrapper(self, describe)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Call[T]:
        """The call alone, not sent."""
        return self._describe(*args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type) -> Method[P, T]: ...
    @overload
    def __get__(self, instance: Sending, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: SendingAsync, owner: type) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, instance: Sending | SendingAsync | None, owner: type) -> Any:
        if instance is None:
            return self

        @functools.wraps(self._describe)
        def send(*args: P.args, **kwargs: P.kwargs) -> Any:
            return instance._send(self._describe(*args, **kwargs))

        return send


@Method
def search(
    query: str,
    *,
    limit: int = 5,
    collection: str | None = None,
    filters: Mapping[str, Any] | None = None,
    diversity: float | None = None,
    expand_tokens: int | None = None,
) -> Call[list[Passage]]:
    """Passages, best first. filters, diversity: as the service documents them.

    expand_tokens: grow each passage to its section, up to so many tokens.

    Raises:
        Unreachable: no answer came.
        Refused: the service refuses.
    """
    body = {
        "query": query, "limit": limit, "collection": collection, "filters": dict(filters) if filters else None,
        "diversity": diversity, "expand_tokens": expand_tokens,
    }  # fmt: skip
    return Call("POST", "/v1/search", lambda found: [Passage.parse(item) for item in found["items"]], json=_given(body))


@Method
def ask(
    question: str,
    *,
    collection: str | None = None,
    conversation_id: str | None = None,
    adapter: str | None = None,
    max_tokens: int | None = None,
    temperature: float | None = None,
    expand_tokens: int | None = None,
) -> Call[Answer]:
    """A whole answer, with citations. Generating takes seconds, so it is repeated only if the service has not begun."""
    options = {
        "collection": collection, "conversation_id": conversation_id, "adapter": adapter, "max_tokens": max_tokens,
        "temperature": temperature, "expand_tokens": expand_tokens,
    }  # fmt: skip
    return Call("POST", "/v1/ask", Answer.parse, json=_given({"question": question, **options}), repeatable=False)


@Method
def upload(
    source: Path | bytes,
    *,
    filename: str | None = None,
    collection: str | None = None,
    external_id: str | None = None,
    groups: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    valid_from: date | None = None,
    valid_until: date | None = None,
    supersedes: str | None = None,
    encoding: str | None = None,
    password: str | None = None,
) -> Call[Uploaded]:
    """Take a document in. The same `external_id` replaces; the same bytes again change nothing.

    A ZIP or TAR becomes a document per file: the first, with the others as its `others`.

    encoding: what its text is in (`cp932`, `euc-jp` ...) [default: judged]. password: opens an encrypted PDF, Office
    file or ZIP; the service stores the file without it.

    Raises:
        ValueError: bytes without a file name.
        OSError: the file cannot be read.
    """
    name = filename or (source.name if isinstance(source, Path) else None)
    if name is None:
        raise ValueError("bytes need a filename: its ending says how they are read")
    data = source.read_bytes() if isinstance(source, Path) else source
    form = _given(
        {
            "collection": collection, "external_id": external_id, "supersedes": supersedes, "encoding": encoding,
            "password": password,
        }
    )  # fmt: skip
    form |= {
        name: day.isoformat() for name, day in _given({"valid_from": valid_from, "valid_until": valid_until}).items()
    }
    if groups is not None:
        form["groups"] = json.dumps(list(groups))
    if metadata is not None:
        form["metadata"] = json.dumps(dict(metadata))
    return Call(
        "POST",
        "/v1/documents",
        Uploaded.parse_all,
        data=form,
        files=[("file", (name, data))],
        headers=_idempotent(),
    )


@Method
def document(document_id: str) -> Call[Document]:
    """One document."""
    return Call("GET", f"/v1/documents/{document_id}", Document.parse)


@Method
def update(document_id: str, **change: Any) -> Call[Document]:
    """Change groups, metadata, collection, valid_from, valid_until or supersedes; what is not named stays.

    None takes a day or `supersedes` away. In force at once.
    """
    body = {name: value.isoformat() if isinstance(value, date) else value for name, value in change.items()}
    return Call("PATCH", f"/v1/documents/{document_id}", Document.parse, json=body, headers=_idempotent())


@Method
def delete(document_id: str) -> Call[Uploaded]:
    """Delete a document: no search sees it from now on; its job removes the rest."""
    return Call("DELETE", f"/v1/documents/{document_id}", Uploaded.parse, headers=_idempotent())


@Method
def job(job_id: str) -> Call[Job]:
    """One job."""
    return Call("GET", f"/v1/jobs/{job_id}", Job.parse)


@Method
def feedback(
    answer_id: str,
    rating: Literal["up", "down"],
    *,
    correction: str | None = None,
    comment: str | None = None,
    consent: bool = False,
) -> Call[None]:
    """Rate an answer; only with `consent` may it be learnt from."""
    body = _given({"rating": rating, "correction": correction, "comment": comment})
    return Call(
        "POST",
        f"/v1/answers/{answer_id}/feedback",
        lambda _: None,
        json={**body, "consent": consent},
        headers=_idempotent(),
    )


@Method
def evaluate(
    questions: Sequence[Mapping[str, Any]] | str,
    *,
    name: str | None = None,
    kinds: Sequence[str] | None = None,
    limit: int | None = None,
    adapter: str | None = None,
    collection: str | None = None,
    compare_to: str | None = None,
) -> Call[Evaluation]:
    """Queue an evaluation; `wait` for its job, then `evaluation`. questions: as documented, or the name of a set."""
    asked = {"set": questions} if isinstance(questions, str) else {"questions": [dict(one) for one in questions]}
    options = {
        "name": name, "kinds": list(kinds) if kinds else None, "limit": limit, "adapter": adapter,
        "collection": collection, "compare_to": compare_to,
    }  # fmt: skip
    body = {**asked, **_given(options)}
    return Call("POST", "/v1/admin/evaluations", Evaluation.parse, json=body, headers=_idempotent())


@Method
def evaluation(evaluation_id: str, *, compare_to: str | None = None) -> Call[Evaluation]:
    """An evaluation with its report, compared with another one."""
    params = _given({"compare_to": compare_to})
    return Call("GET", f"/v1/admin/evaluations/{evaluation_id}", Evaluation.parse, params=params)


@Method
def evaluation_outcomes(
    evaluation_id: str, *, status: str | None = None, after: int = 0
) -> Call[list[EvaluationOutcome]]:
    """Up to 200 outcomes behind a question's number (`ordinal`), in order. status: right, wrong, refused or failed."""
    params = _given({"status": status, "after": after, "limit": 200})
    path = f"/v1/admin/evaluations/{evaluation_id}/outcomes"
    return Call("GET", path, lambda page: [EvaluationOutcome.parse(one) for one in page["items"]], params=params)


@Method
def erase(
    *,
    document_id: str | None = None,
    external_id: str | None = None,
    text: str | None = None,
    tenant: str | None = None,
    retire: Literal["now", "after_retrain"] = "now",
    dry_run: bool = False,
) -> Call[Erasure]:
    """Forget a document, a text or a tenant, one of them; `wait` for its job, then `erasure`. dry_run: only plan."""
    body = _given({"document_id": document_id, "external_id": external_id, "text": text, "tenant": tenant})
    body |= {"retire": retire, "dry_run": dry_run}
    return Call("POST", "/v1/admin/erasures", Erasure.parse, json=body, headers=_idempotent())


@Method
def start_erasure(erasure_id: str) -> Call[Erasure]:
    """Carry out an erasure that was only planned."""
    return Call("POST", f"/v1/admin/erasures/{erasure_id}/start", Erasure.parse, headers=_idempotent())


@Method
def erasure(erasure_id: str) -> Call[Erasure]:
    """An erasure with its plan and, once it is done, its certificate."""
    return Call("GET", f"/v1/admin/erasures/{erasure_id}", Erasure.parse)


def document_page(
    cursor: str | None, *, status: str | None, collection: str | None
) -> Call[tuple[list[Document], str | None]]:
    """One page of a list of documents, and the cursor of the next."""
    params = _given({"limit": 100, "cursor": cursor, "status": status, "collection": collection})

    def parse(page: Any) -> tuple[list[Document], str | None]:
        return [Document.parse(item) for item in page["items"]], page["next_cursor"]

    return Call("GET", "/v1/documents", parse, params=params)


def streamed(question: str, options: Mapping[str, Any]) -> Call[Answer]:
    """`ask` with its answer as events."""
    call = ask(question, **options)
    return Call(call.method, call.path, call.parse, json={**call.json, "stream": True}, repeatable=False)


class Surface:
    """Every call that is one request and one answer."""

    search = search
    ask = ask
    upload = upload
    document = document
    update = update
    delete = delete
    job = job
    erase = erase
    start_erasure = start_erasure
    erasure = erasure
    evaluate = evaluate
    evaluation = evaluation
    evaluation_outcomes = evaluation_outcomes
    feedback = feedback


def _idempotent() -> dict[str, str]:
    """Header that makes a write safe to repeat."""
    return {"Idempotency-Key": uuid.uuid4().hex}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
