"""Which rows and documents a run put before the model, written down for the day when one of them must be forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select

from core.database import WriteSession
from core.repositories.lineage import SourceKind
from core.tables.lineage import EVALUATED, RowSource, RunDocument, RunRow
from tuning.chain import TRAINED, Parent
from tuning.prepare import Preparation

_AT_ONCE = 500


def record_lineage(session: WriteSession, run_id: str, found: Preparation, parents: Sequence[Parent] = ()) -> None:
    """Replace what an earlier attempt of the run wrote down. What a parent saw, its child has seen."""
    for table in (RunRow, RunDocument):
        session.execute(delete(table).where(table.run_id == run_id))
    rows = [{"run_id": run_id, "row_id": row_id, "part": part} for row_id, part in found.parts.items()]
    before = [parent.run_id for parent in parents if parent.run_id is not None]
    if before:
        learnt = select(RunRow.row_id).where(RunRow.run_id.in_(before), RunRow.part.in_(TRAINED)).distinct()
        rows += [
            {"run_id": run_id, "row_id": row_id, "part": "parent"}
            for row_id in session.scalars(learnt)
            if row_id not in found.parts
        ]
    if rows:
        session.execute(insert(RunRow), rows)
    seen = {(document_id, generation, "negative") for document_id, generation in found.negative_documents}
    seen |= {(document_id, generation, EVALUATED) for document_id, generation in found.evaluated_documents}
    ids = sorted(found.parts)
    for start in range(0, len(ids), _AT_ONCE):
        sources = session.execute(
            select(RowSource.source_id, RowSource.generation).where(
                RowSource.row_id.in_(ids[start : start + _AT_ONCE]), RowSource.kind == SourceKind.DOCUMENT.value
            )
        )
        seen |= {(document_id, generation or 0, "row") for document_id, generation in sources}
    if before:
        carried = select(RunDocument.document_id, RunDocument.generation).where(
            RunDocument.run_id.in_(before), RunDocument.use != EVALUATED
        )
        seen |= {(document_id, generation, "parent") for document_id, generation in session.execute(carried)}
    if seen:
        session.execute(
            insert(RunDocument),
            [
                {"run_id": run_id, "document_id": document_id, "generation": generation, "use": use}
                for document_id, generation, use in sorted(seen)
            ],
        )
