"""Answers that people wrote for a question. They are given instead of a generated one until a champion has learnt them.

"Learnt" is read, not stored: the version that would answer has a row made from the curated answer in its run. So a
rollback to a version that has not learnt it brings the curated answer back by itself.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from core.access import Principal
from core.database import ReadSession
from core.repositories.lineage import SourceKind, common_groups
from core.tables.adapters import AdapterVersion
from core.tables.lineage import CuratedAnswer, RowSource, RunRow
from core.types import Scope

EXAMPLES_LOOKED_AT = 500
EXAMPLE_MAX_CHARS = 1_500
_NOISE = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Curated:
    """A curated answer that is in force for a request."""

    id: str
    answer: str
    document_ids: tuple[str, ...]


def question_key(question: str) -> str:
    """Key under which a question is found again: NFKC, case, white space and punctuation do not matter."""
    folded = _NOISE.sub("", unicodedata.normalize("NFKC", question).casefold())
    return hashlib.sha256((folded or question).encode()).hexdigest()


def find_curated(session: ReadSession, principal: Principal, question: str, version_id: str | None) -> Curated | None:
    """The newest curated answer to a question that the caller may be told and that `version_id` has not learnt."""
    rows: Sequence[CuratedAnswer] = session.scalars(
        select(CuratedAnswer)
        .where(CuratedAnswer.tenant_id == principal.tenant_id, CuratedAnswer.question_key == question_key(question))
        .where(CuratedAnswer.retired_at.is_(None))
        .order_by(CuratedAnswer.created_at.desc(), CuratedAnswer.id.desc())
    ).all()
    for row in rows:
        documents = tuple(str(passage["document_id"]) for passage in row.passages if passage.get("document_id"))
        if not _may_read(principal, row.groups) or not _may_read(principal, common_groups(session, documents)):
            continue
        if version_id is not None and _learnt(session, row.id, version_id):
            continue
        return Curated(row.id, row.answer, documents)
    return None


def similar_examples(session: ReadSession, principal: Principal, question: str, count: int) -> list[tuple[str, str]]:
    """Curated (question, answer) pairs most like a question that the caller may be told, most similar last.

    Likeness is Dice's coefficient of character pairs after NFKC, which needs no words. Only the newest
    EXAMPLES_LOOKED_AT are looked at, and long ones are left out; the question itself is no example of it.
    """
    rows = session.scalars(
        select(CuratedAnswer)
        .where(CuratedAnswer.tenant_id == principal.tenant_id, CuratedAnswer.retired_at.is_(None))
        .where(CuratedAnswer.question_key != question_key(question))
        .order_by(CuratedAnswer.created_at.desc(), CuratedAnswer.id.desc())
        .limit(EXAMPLES_LOOKED_AT)
    ).all()
    asked = _pairs(question)
    ranked = sorted(rows, key=lambda row: _dice(asked, _pairs(row.question)), reverse=True)
    found: list[tuple[str, str]] = []
    for row in ranked:
        if len(found) == count:
            break
        documents = tuple(str(passage["document_id"]) for passage in row.passages if passage.get("document_id"))
        if len(row.question) + len(row.answer) > EXAMPLE_MAX_CHARS:
            continue
        if _may_read(principal, row.groups) and _may_read(principal, common_groups(session, documents)):
            found.append((row.question, row.answer))
    return found[::-1]


def _pairs(text: str) -> set[str]:
    folded = _NOISE.sub("", unicodedata.normalize("NFKC", text).casefold())
    return {folded[at : at + 2] for at in range(len(folded) - 1)}


def _dice(one: set[str], other: set[str]) -> float:
    return 2 * len(one & other) / (len(one) + len(other)) if one and other else 0.0


def _may_read(principal: Principal, groups: list[Any] | None) -> bool:
    return groups is None or Scope.ADMIN in principal.scopes or not principal.groups.isdisjoint(groups)


def _learnt(session: ReadSession, curated_id: str, version_id: str) -> bool:
    found = session.scalar(
        select(RunRow.row_id)
        .join(RowSource, RowSource.row_id == RunRow.row_id)
        .join(AdapterVersion, AdapterVersion.run_id == RunRow.run_id)
        .where(RowSource.kind == SourceKind.CURATED.value, RowSource.source_id == curated_id)
        .where(AdapterVersion.id == version_id, RunRow.part == "train")
        .limit(1)
    )
    return found is not None
