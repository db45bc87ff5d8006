"""Rows from documents: a passage, questions that it answers, and answers from it alone that pass every check."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.access import access_filter, documents_visible
from core.database import Database, ReadSession
from core.errors import NotFound
from core.language import passage_language
from core.repositories.documents import serving_chunk_set
from core.repositories.lineage import SourceKind, common_groups
from core.tables.documents import ChunkRow, Collection, Document
from core.types import Language
from tuning.datasets.near import near_pairs
from tuning.datasets.storing import MadeRow, Source
from tuning.negatives import Search
from tuning.teacher.checks import check_answer, check_question
from tuning.teacher.piece import Asker, Outcome, Piece, left_out
from tuning.teacher.prompts import (
    answer_prompt,
    questions_prompt,
    read_questions,
    read_support,
    support_prompt,
)
from tuning.teacher.requests import FromDocuments

_MIN_CHARS = {Language.JAPANESE: 30}
_MIN_OTHER_CHARS = 60
"""Less says too little to be asked about; a Japanese character says more than a Latin letter."""
FOUND_AMONG = 5
_MOST_CHUNKS = 200_000


@dataclass(frozen=True, slots=True)
class _Passage:
    id: str
    document_id: str
    generation: int
    title: str
    text: str


class Distiller:
    """Works on chunks of the documents that the requester may read."""

    def __init__(self, db: Database, request: FromDocuments, piece: Piece, search: Search | None) -> None:
        self._db = db
        self._request = request
        self._piece = piece
        self._search = search

    def plan(self) -> list[str]:
        """Chunks in the order of work: documents in turn, of each the chunks in an order by hash.

        Raises:
            NotFound: no such collection.
        """
        wanted = -(-self._request.questions // self._request.per_passage)
        by_document: dict[str, list[str]] = defaultdict(list)
        with self._db.read() as session:
            access = access_filter(self._piece.principal, collection_id=self._collection(session))
            query = (
                select(ChunkRow.id, ChunkRow.document_id, ChunkRow.text)
                .join(Document, Document.id == ChunkRow.document_id)
                .where(documents_visible(access), ChunkRow.generation == Document.active_generation)
                .where(ChunkRow.chunk_set == serving_chunk_set(session))
                .order_by(ChunkRow.id)
                .limit(_MOST_CHUNKS)
            )
            if self._request.document_ids is not None:
                query = query.where(Document.id.in_(self._request.document_ids))
            for chunk_id, document_id, text in session.execute(query):
                if len(text.strip()) >= _MIN_CHARS.get(passage_language(text), _MIN_OTHER_CHARS):
                    by_document[document_id].append(chunk_id)
        queues = [sorted(chunks, key=_by_hash) for _, chunks in sorted(by_document.items(), key=lambda item: item[0])]
        rounds = range(max(map(len, queues), default=0))
        return [queue[at] for at in rounds for queue in queues if at < len(queue)][:wanted]

    def work(self, piece_id: str, ask: Asker) -> Outcome:
        """Questions of one chunk, answered and checked."""
        with self._db.read() as session:
            passage = self._read(session, piece_id)
        if passage is None:
            return Outcome([], [left_out(piece_id, "document_changed", "the passage is no longer served")])
        language = passage_language(passage.text)
        reply = ask(questions_prompt(passage.text, passage.title, language, self._request.per_passage))
        questions = read_questions(reply, self._request.per_passage)
        if questions is None:
            return Outcome([], [left_out(piece_id, "teacher_reply", "no list of questions")])
        outcome = Outcome([], [])
        for question in questions:
            found = self._one(question, passage, ask)
            (outcome.rows if "messages" in found else outcome.left_out).append(found)
        return outcome

    def _one(self, question: str, passage: _Passage, ask: Asker) -> dict[str, Any]:
        """A canonical row, or why there is none."""
        problem = check_question(question, passage.text)
        if problem is not None:
            return left_out(passage.id, problem, question)
        if not self._is_found(question, passage):
            return left_out(passage.id, "not_found_by_search", question)
        language = passage_language(passage.text)
        answer = ask(answer_prompt(question, [(passage.text, passage.title)], language, self._request.style)).strip()
        problem = check_answer(question, answer, [passage.text])
        if problem is not None:
            return left_out(passage.id, problem, f"{question} -> {answer}")
        if self._request.verify and read_support(ask(support_prompt(question, answer, [passage.text]))) is not True:
            return left_out(passage.id, "not_confirmed", f"{question} -> {answer}")
        return {
            "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
            "passages": [{"text": passage.text, "title": passage.title}],
        }

    def _is_found(self, question: str, passage: _Passage) -> bool:
        """Whether the service's own search puts this passage before the model: what it misses cannot be answered."""
        if self._search is None or not self._request.must_be_found:
            return True
        found = self._search.search(question, access_filter(self._piece.principal), FOUND_AMONG)
        return any(one.chunk_id == passage.id or one.text == passage.text for one in found.passages)

    def finish(self, outcomes: Sequence[tuple[str, Outcome]]) -> tuple[dict[str, list[MadeRow]], list[dict[str, Any]]]:
        """Rows by shape, near copies of a question once; and what was left out here."""
        rows = [(piece_id, row) for piece_id, outcome in outcomes for row in outcome.rows]
        copies = {two: one for one, two, _ in near_pairs([row["messages"][0]["content"] for _, row in rows])}
        dropped = [
            left_out(rows[two][0], "near_duplicate", rows[two][1]["messages"][0]["content"]) for two in sorted(copies)
        ]
        made = []
        with self._db.read() as session:
            for at, (piece_id, row) in enumerate(rows):
                passage = self._read(session, piece_id) if at not in copies else None
                if passage is not None:
                    made.append(self._made(session, passage, row))
                elif at not in copies:
                    dropped.append(left_out(piece_id, "document_changed", "the passage is no longer served"))
        return {"messages": made}, dropped

    def _made(self, session: ReadSession, passage: _Passage, row: dict[str, Any]) -> MadeRow:
        lineage = {
            "source": "teacher",
            "teacher": self._piece.teacher,
            "build_id": self._piece.build_id,
            "documents": [{"document_id": passage.document_id, "generation": passage.generation}],
            "groups": common_groups(session, [passage.document_id]),
            "consent": True,
        }
        return MadeRow(row, lineage, (Source(SourceKind.DOCUMENT, passage.document_id, passage.generation),))

    def _read(self, session: ReadSession, chunk_id: str) -> _Passage | None:
        """A chunk, as long as it is served and the requester may read it."""
        found = session.execute(
            select(ChunkRow, Document)
            .join(Document, Document.id == ChunkRow.document_id)
            .where(ChunkRow.id == chunk_id, ChunkRow.generation == Document.active_generation)
            .where(documents_visible(access_filter(self._piece.principal)))
        ).one_or_none()
        if found is None:
            return None
        chunk, document = found
        title = chunk.heading or document.filename
        return _Passage(chunk.id, document.id, chunk.generation, title, chunk.text)

    def _collection(self, session: ReadSession) -> str | None:
        if self._request.collection is None:
            return None
        found = session.scalar(
            select(Collection.id).where(
                Collection.tenant_id == self._piece.principal.tenant_id, Collection.name == self._request.collection
            )
        )
        if found is None:
            raise NotFound(f"no collection '{self._request.collection}'")
        return found


def _by_hash(chunk_id: str) -> str:
    return hashlib.sha256(chunk_id.encode()).hexdigest()
