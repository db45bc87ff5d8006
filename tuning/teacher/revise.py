"""Critique and revise: an answer that breaks a written principle is rewritten, and the rewrite must be better.

A rewrite counts only when a second look finds fewer principles broken, and when it passes the checks that every taught
answer passes; otherwise the row is left out of both sets rather than taught as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from core.database import Database, ReadSession
from core.errors import InvalidInput, NotFound
from core.repositories.derived import rows_readable
from core.repositories.lineage import SourceKind
from core.tables.datasets import Dataset, DatasetRow
from core.tables.lineage import RowSource
from generation.citations import MARKER
from tuning.datasets.formats import DatasetFormat
from tuning.datasets.storing import MadeRow, Source
from tuning.render import answer_of, question_of
from tuning.teacher.checks import check_answer
from tuning.teacher.piece import Asker, Outcome, Piece, left_out
from tuning.teacher.prompts import critique_prompt, read_broken, read_support, revise_prompt, support_prompt
from tuning.teacher.requests import FromDataset


class Reviser:
    """Works on rows in force of one set."""

    def __init__(self, db: Database, request: FromDataset, piece: Piece) -> None:
        self._db = db
        self._request = request
        self._piece = piece

    def plan(self) -> list[str]:
        """Rows in file order.

        Raises:
            NotFound: no such set in this tenant.
            InvalidInput: `dataset_not_supervised`.
        """
        with self._db.read() as session:
            dataset = session.get(Dataset, self._request.dataset_id)
            if (
                dataset is None
                or dataset.tenant_id != self._piece.principal.tenant_id
                or dataset.deleted_at is not None
            ):
                raise NotFound(f"no dataset '{self._request.dataset_id}'", code="dataset_not_found")
            if not DatasetFormat(dataset.format).supervised:
                raise InvalidInput(f"dataset '{dataset.id}' holds no answers to revise", code="dataset_not_supervised")
            query = (
                select(DatasetRow.id)
                .where(DatasetRow.dataset_id == dataset.id, DatasetRow.retired_at.is_(None))
                .where(rows_readable(session, self._piece.principal))
                .order_by(DatasetRow.ordinal)
                .limit(self._request.rows)
            )
            return list(session.scalars(query))

    def work(self, piece_id: str, ask: Asker) -> Outcome:
        """Critique of one row, and its rewrite where it needs one."""
        with self._db.read() as session:
            row = self._read(session, piece_id)
        if row is None:
            return Outcome([], [left_out(piece_id, "row_retired", "retired since the build began")])
        content = row.content
        if any("tool_calls" in turn for turn in content["messages"]):
            return Outcome([], [left_out(piece_id, "tool_calls", "calls of tools are not revised")])
        question, answer = question_of(content), answer_of(content)
        passages = [passage["text"] for passage in content.get("passages", [])]
        principles = self._request.principles
        broken = read_broken(ask(critique_prompt(question, answer, passages, principles)), len(principles))
        if broken is None:
            return Outcome([], [left_out(piece_id, "teacher_reply", "no critique in the shape that was asked for")])
        if not broken:
            return Outcome([{"answer": answer, "broken": []}], [])
        revised = ask(revise_prompt(question, answer, passages, principles, broken)).strip()
        problem = "unchanged" if revised == answer.strip() else check_answer(question, revised, passages)
        if problem == "no_citation" and not MARKER.search(answer):
            problem = None  # the row never cited; rendering it for training adds what can be verified
        if problem is None and passages and self._request.verify:
            confirmed = read_support(ask(support_prompt(question, revised, passages)))
            problem = None if confirmed is True else "not_confirmed"
        if problem is None:
            still = read_broken(ask(critique_prompt(question, revised, passages, principles)), len(principles))
            problem = None if still is not None and len(still) < len(broken) else "not_better"
        if problem is not None:
            return Outcome([], [left_out(piece_id, problem, f"{sorted(broken)}: {revised}")])
        return Outcome([{"answer": revised, "broken": sorted(broken)}], [])

    def finish(self, outcomes: Sequence[tuple[str, Outcome]]) -> tuple[dict[str, list[MadeRow]], list[dict[str, Any]]]:
        """Answers to imitate (kept and rewritten), pairs of rewrite and original; and what was retired meanwhile."""
        answers: list[MadeRow] = []
        pairs: list[MadeRow] = []
        dropped = []
        with self._db.read() as session:
            for piece_id, outcome in outcomes:
                for found in outcome.rows:
                    row = self._read(session, piece_id)
                    if row is None:
                        dropped.append(left_out(piece_id, "row_retired", "retired since the build began"))
                        continue
                    lineage, sources = self._lineage(session, row, found["broken"])
                    before = row.content["messages"][:-1]
                    beside = {key: row.content[key] for key in ("passages",) if key in row.content}
                    reply = {"role": "assistant", "content": found["answer"]}
                    answers.append(MadeRow({"messages": [*before, reply], **beside}, lineage, sources))
                    if found["broken"]:
                        pair = {"messages": before, "chosen": found["answer"], "rejected": answer_of(row.content)}
                        pairs.append(MadeRow({**pair, **beside}, lineage, sources))
        return {"messages": answers, "preference": pairs}, dropped

    def _lineage(
        self, session: ReadSession, row: DatasetRow, broken: Sequence[int]
    ) -> tuple[dict[str, Any], tuple[Source, ...]]:
        """That of the row it was made from, so that whatever retires the row retires what was made of it."""
        lineage = {
            **row.lineage,
            "revised_from": row.id,
            "build_id": self._piece.build_id,
            "teacher": self._piece.teacher,
            "broken": [self._request.principles[number - 1] for number in broken],
        }
        query = select(RowSource).where(RowSource.row_id == row.id)
        sources = tuple(
            Source(SourceKind(found.kind), found.source_id, found.generation) for found in session.scalars(query)
        )
        return lineage, sources

    def _read(self, session: ReadSession, row_id: str) -> DatasetRow | None:
        wanted = select(DatasetRow).where(DatasetRow.id == row_id, DatasetRow.retired_at.is_(None))
        return session.scalars(wanted.where(rows_readable(session, self._piece.principal))).one_or_none()
