"""Shadow answers: what another version would have said to the same prompt, scored and never sent.

One thread behind a short queue: under load shadows are dropped and counted, for an answer that a person waits for goes
first. A shadow that fails is a figure like any other.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
from sqlalchemy import func, select

from core.database import Database, ReadSession
from core.errors import TsumugiError
from core.ports import Engine
from core.tables.canary import ShadowAnswer
from core.types import Citation, GenerationRequest, Passage
from generation.adapters.routing import Route
from generation.canary.policy import Figure
from generation.canary.sequential import Counts, log_evidence
from generation.citations import cite
from generation.prompt import is_not_found

log = structlog.stdlib.get_logger(__name__)

ROOM = 16
"""Answers that may wait for their shadow."""
_LONGEST_READ = 5_000
"""Newest shadow answers that a summary is made of."""


@dataclass(frozen=True, slots=True)
class ShadowRequest:
    """An answer as it was sent, with all that is needed to ask another version the same."""

    request: GenerationRequest
    route: Route
    tenant_id: str
    answer_id: str
    question: str
    passages: tuple[Passage, ...]
    answer: str
    citations: Sequence[Citation]
    refused: bool
    generate_ms: float


class ShadowRunner:
    """Answers in the background with the shadow version of each request's route."""

    def __init__(self, db: Database, engine: Engine) -> None:
        self._db = db
        self._engine = engine
        self._waiting: queue.Queue[ShadowRequest | None] = queue.Queue(ROOM)
        self._thread = threading.Thread(target=self._run, name="shadow-answers", daemon=True)
        self._stopping = threading.Event()
        self.dropped = 0
        """Answers that got no shadow because too many waited."""
        self._thread.start()

    def offer(self, given: ShadowRequest) -> None:
        """Take an answer, or drop it when too many wait."""
        try:
            self._waiting.put_nowait(given)
        except queue.Full:
            self.dropped += 1

    def wait(self) -> None:
        """Return when every answer taken so far has its shadow."""
        self._waiting.join()

    def close(self, timeout_s: float = 5.0) -> None:
        """Take no more; what waits is dropped. Call before the engine closes."""
        self._stopping.set()
        try:
            self._waiting.put_nowait(None)
        except queue.Full:
            log.debug("shadow.queue_full_at_close")  # the thread meets `_stopping` at its next item
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (given := self._waiting.get()) is not None and not self._stopping.is_set():
            try:
                self._answer(given)
            except Exception:
                log.exception("shadow.failed", answer_id=given.answer_id)
            finally:
                self._waiting.task_done()

    def _answer(self, given: ShadowRequest) -> None:
        begun = time.perf_counter()
        text, scores = "", {}
        try:
            text = self._engine.submit(replace(given.request, adapter=given.route.shadow)).result().text.strip()
            citations = cite(text, given.passages, question=given.question)
            scores = _scores(text, citations, is_not_found(text), (time.perf_counter() - begun) * 1000)
        except TsumugiError as error:
            scores = {"error": error.code}
        sent = _scores(given.answer, given.citations, given.refused, given.generate_ms)
        with self._db.write() as session:
            session.add(
                ShadowAnswer(
                    tenant_id=given.tenant_id,
                    family_id=given.route.family_id,
                    version_id=given.route.shadow_version_id,
                    answer_id=given.answer_id,
                    answer=text,
                    shadow=scores,
                    sent=sent,
                )
            )


def _scores(text: str, citations: Sequence[Citation], refused: bool, ms: float) -> dict[str, Any]:
    return {
        "refused": refused,
        "uncited": not refused and not any(citation.verified for citation in citations),
        "chars": len(text),
        "ms": round(ms, 1),
    }


def summarise(session: ReadSession, family_id: str, version_id: str) -> dict[str, Any]:
    """Figures of a shadow version beside those of what was sent to the same prompts.

    Both answered every prompt, so pairs where they agree say nothing; among the others a version that is no worse has
    the event in at most one of two: the same sequential test, with a share of one half.
    """
    total = session.scalar(
        select(func.count()).where(ShadowAnswer.family_id == family_id, ShadowAnswer.version_id == version_id)
    )
    rows = session.execute(
        select(ShadowAnswer.shadow, ShadowAnswer.sent)
        .where(ShadowAnswer.family_id == family_id, ShadowAnswer.version_id == version_id)
        .order_by(ShadowAnswer.created_at.desc())
        .limit(_LONGEST_READ)
    ).all()
    answered = [(shadow, sent) for shadow, sent in rows if "error" not in shadow]
    figures: dict[str, Any] = {}
    for figure, key in ((Figure.REFUSAL, "refused"), (Figure.UNCITED, "uncited")):
        ours = sum(bool(shadow[key]) for shadow, _ in answered)
        theirs = sum(bool(sent[key]) for _, sent in answered)
        only_ours = sum(bool(shadow[key]) and not sent[key] for shadow, sent in answered)
        only_theirs = sum(bool(sent[key]) and not shadow[key] for shadow, sent in answered)
        evidence = log_evidence(Counts(only_ours, only_theirs, only_ours, only_theirs), 0.5)
        figures[figure.value] = {
            "shadow": round(ours / len(answered), 4) if answered else None,
            "sent": round(theirs / len(answered), 4) if answered else None,
            "only_shadow": only_ours,
            "only_sent": only_theirs,
            "log_evidence": round(evidence, 3),
        }
    for key in ("chars", "ms"):
        figures[key] = {
            "shadow": round(sum(shadow[key] for shadow, _ in answered) / len(answered), 1) if answered else None,
            "sent": round(sum(sent[key] for _, sent in answered) / len(answered), 1) if answered else None,
        }
    return {"answers": total or 0, "read": len(rows), "errors": len(rows) - len(answered), "figures": figures}
