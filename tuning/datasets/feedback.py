"""Training sets from what people said of answers, and from answers they wrote themselves.

An approved answer is imitated; a correction is imitated and, with the answer it corrects, preferred; every vote is an
unpaired label. Nothing is taken without consent, and what is left out is named with its reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select

from core.access import Principal
from core.database import Database, ReadSession
from core.errors import DatasetRejected, InvalidInput
from core.repositories.derived import readable_answers, readable_curated
from core.repositories.lineage import SourceKind, common_groups
from core.tables.answers import Answer, Feedback
from core.tables.documents import ChunkRow, Document
from core.tables.lineage import CuratedAnswer
from core.types import Scope
from tuning.datasets.formats import DatasetFormat
from tuning.datasets.service import DatasetService, Upload
from tuning.datasets.storing import MadeRow, Source

MAX_FEEDBACK = 50_000


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A feedback that made no row, and why."""

    feedback_id: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Harvest:
    """The sets that were made, one a shape, and all that was left out."""

    datasets: list[Upload]
    left_out: list[LeftOut]


@dataclass(slots=True)
class _Rows:
    made: dict[DatasetFormat, list[MadeRow]] = field(default_factory=lambda: defaultdict(list))
    left_out: list[LeftOut] = field(default_factory=list)


class FeedbackHarvester:
    """Makes sets from the feedback of a tenant."""

    def __init__(self, db: Database, datasets: DatasetService) -> None:
        self._db = db
        self._datasets = datasets

    def harvest(
        self,
        principal: Principal,
        *,
        name: str = "feedback",
        family: str | None = None,
        since: datetime | None = None,
        shapes: Sequence[DatasetFormat] = (
            DatasetFormat.MESSAGES,
            DatasetFormat.PREFERENCE,
            DatasetFormat.UNPAIRED,
        ),
    ) -> Harvest:
        """One immutable set for each shape that has rows, of what the caller may read. The same again is the same set.

        Raises:
            DatasetRejected: `no_feedback`: nothing can be used; `extra` says why for each.
            InvalidInput: `too_many_rows`.
        """
        principal.require(Scope.TUNE)
        rows = _Rows()
        with self._db.read() as session:
            self._read_feedback(session, principal, since, rows)
            self._read_curated(session, principal, since, rows)
        left_out = [{"feedback_id": one.feedback_id, "code": one.code, "detail": one.detail} for one in rows.left_out]
        wanted = {shape: made for shape, made in rows.made.items() if shape in shapes and made}
        if not wanted:
            raise DatasetRejected(
                f"none of {len(left_out)} feedbacks can be used", code="no_feedback", extra={"left_out": left_out[:200]}
            )
        made = [
            self._datasets.add_rows(
                principal,
                shape,
                wanted[shape],
                name=f"{name} ({shape.value})",
                report={"left_out": left_out},
                family=family,
            )
            for shape in shapes
            if shape in wanted
        ]
        return Harvest(made, rows.left_out)

    def _read_feedback(self, session: ReadSession, principal: Principal, since: datetime | None, rows: _Rows) -> None:
        query = (
            select(Feedback, Answer)
            .join(Answer, Answer.id == Feedback.answer_id)
            .where(Feedback.tenant_id == principal.tenant_id)
            .order_by(Feedback.created_at, Feedback.id)
            .limit(MAX_FEEDBACK + 1)
        )
        if since is not None:
            query = query.where(Feedback.created_at > since)
        found = session.execute(query).all()
        if len(found) > MAX_FEEDBACK:
            raise InvalidInput(f"more than {MAX_FEEDBACK} feedbacks; use `since`", code="too_many_rows")
        readable = readable_answers(session, principal, [answer for _, answer in found])
        by_answer: dict[str, list[tuple[Feedback, Answer]]] = defaultdict(list)
        for feedback, answer in found:
            if answer.id in readable:  # what the caller may not read does not exist for it
                by_answer[answer.id].append((feedback, answer))
        for given in by_answer.values():
            for feedback, answer in self._of_one_mind(given, rows):
                self._make(session, feedback, answer, rows)

    @staticmethod
    def _of_one_mind(given: Sequence[tuple[Feedback, Answer]], rows: _Rows) -> Iterator[tuple[Feedback, Answer]]:
        """The last word of each person with consent; nothing where they disagree without a correction."""
        last: dict[str | None, tuple[Feedback, Answer]] = {}
        for feedback, answer in given:
            before = last.get(feedback.key_id)
            if before is not None:
                rows.left_out.append(LeftOut(before[0].id, "superseded", f"by feedback {feedback.id}"))
            last[feedback.key_id] = (feedback, answer)
        agreed = []
        for feedback, answer in last.values():
            if feedback.consent:
                agreed.append((feedback, answer))
            else:
                rows.left_out.append(LeftOut(feedback.id, "no_consent", "given without consent to train on it"))
        ratings = {feedback.rating for feedback, _ in agreed}
        for feedback, answer in agreed:
            if len(ratings) > 1 and not feedback.correction:
                rows.left_out.append(LeftOut(feedback.id, "disputed", "others rated the same answer otherwise"))
            else:
                yield feedback, answer

    def _make(self, session: ReadSession, feedback: Feedback, answer: Answer, rows: _Rows) -> None:
        passages, missing = _passages(session, answer)
        if missing:
            detail = f"{missing} of {len(answer.passages)} passages that the answer was written from are gone"
            rows.left_out.append(LeftOut(feedback.id, "passages_gone", detail))
            return
        documents = {str(passage["document_id"]) for passage in answer.passages}
        lineage: dict[str, Any] = {
            "source": "feedback",
            "answer_id": answer.id,
            "feedback_id": feedback.id,
            "documents": [
                {"document_id": passage["document_id"], "generation": passage["generation"]}
                for passage in answer.passages
            ],
            "groups": common_groups(session, documents),
            "consent": True,
            "given_by": feedback.key_id,
        }
        sources = (
            Source(SourceKind.ANSWER, answer.id),
            Source(SourceKind.FEEDBACK, feedback.id),
            *(Source(SourceKind.DOCUMENT, one["document_id"], one["generation"]) for one in lineage["documents"]),
        )
        asked = [{"role": "user", "content": answer.question}]
        beside = {"passages": passages} if passages else {}
        correction = (feedback.correction or "").strip()
        wanted = correction or answer.answer

        def add(shape: DatasetFormat, content: dict[str, Any]) -> None:
            rows.made[shape].append(MadeRow({**content, **beside}, lineage, sources))

        if correction or feedback.rating == "up":
            add(DatasetFormat.MESSAGES, {"messages": [*asked, {"role": "assistant", "content": wanted}]})
        if correction and correction != answer.answer:
            add(DatasetFormat.PREFERENCE, {"messages": asked, "chosen": correction, "rejected": answer.answer})
        label = feedback.rating == "up"
        reply = {"role": "assistant", "content": answer.answer}
        add(DatasetFormat.UNPAIRED, {"messages": [*asked, reply], "label": label})
        if not correction and not label:
            detail = "a vote against an answer says what not to write: it is in the unpaired set only"
            rows.left_out.append(LeftOut(feedback.id, "no_correction", detail))

    def _read_curated(self, session: ReadSession, principal: Principal, since: datetime | None, rows: _Rows) -> None:
        query = select(CuratedAnswer).where(
            CuratedAnswer.tenant_id == principal.tenant_id, CuratedAnswer.retired_at.is_(None)
        )
        if since is not None:
            query = query.where(CuratedAnswer.created_at > since)
        written = session.scalars(query.order_by(CuratedAnswer.created_at, CuratedAnswer.id)).all()
        for row in readable_curated(session, principal, written):
            named = [passage for passage in row.passages if passage.get("document_id")]
            of_documents = common_groups(session, [str(passage["document_id"]) for passage in named])
            lineage: dict[str, Any] = {
                "source": "curated",
                "curated_id": row.id,
                "documents": [
                    {"document_id": passage["document_id"], "generation": passage.get("generation")}
                    for passage in named
                ],
                "groups": both(row.groups, of_documents),
                "consent": True,
                "given_by": row.created_by,
            }
            sources = [Source(SourceKind.CURATED, row.id)]
            sources += [
                Source(SourceKind.DOCUMENT, str(one["document_id"]), one["generation"]) for one in lineage["documents"]
            ]
            content: dict[str, Any] = {
                "messages": [
                    {"role": "user", "content": row.question},
                    {"role": "assistant", "content": row.answer},
                ]
            }
            shown = [
                {"text": passage["text"], **({"title": passage["title"]} if passage.get("title") else {})}
                for passage in row.passages
            ]
            if shown:
                content["passages"] = shown
            rows.made[DatasetFormat.MESSAGES].append(MadeRow(content, lineage, tuple(sources)))


def both(one: list[Any] | None, two: list[Any] | None) -> list[str] | None:
    """Groups that are in both; None stands for all of them."""
    if one is None or two is None:
        return two if one is None else one
    return sorted(set(one) & set(two))


def _passages(session: ReadSession, answer: Answer) -> tuple[list[dict[str, str]], int]:
    """Texts that the answer was written from, in prompt order; and how many are there no more."""
    shown: list[dict[str, str]] = []
    for passage in answer.passages:
        chunk = session.get(ChunkRow, passage["chunk_id"])
        document = session.get(Document, passage["document_id"])
        if chunk is None or document is None or document.active_generation is None:
            continue
        shown.append({"text": chunk.text, "title": chunk.heading or document.filename})
    return shown, len(answer.passages) - len(shown)
