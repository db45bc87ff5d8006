"""Which sets a run takes, and how many different rows they hold."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session, aliased

from core.access import Principal
from core.database import ReadSession, WriteSession
from core.errors import InvalidInput, NotFound
from core.repositories.derived import rows_readable
from core.tables.datasets import Dataset, DatasetRow
from tuning.datasets.fitness import unfit
from tuning.datasets.formats import DatasetFormat
from tuning.kinds import Method
from tuning.margins import Margins
from tuning.recipe import Recipe, stages_of
from tuning.seeing import small_set


def formats_of(recipe: Recipe) -> frozenset[DatasetFormat]:
    """Formats that some stage of a recipe learns from."""
    return frozenset[DatasetFormat]().union(*(stage.method.formats for stage in stages_of(recipe)))


def choose_sets(
    session: Session, tenant_id: str, family: str, wanted: Sequence[str] | None, formats: frozenset[DatasetFormat]
) -> Sequence[Dataset]:
    """Sets in force in a fixed order: those named, or every one of the family that the method can learn from.

    Raises:
        NotFound: `dataset_not_found`.
        InvalidInput: `no_datasets`, `dataset_retired`, `dataset_not_supervised`, `dataset_wrong_format`.
    """
    query = (
        select(Dataset)
        .where(Dataset.tenant_id == tenant_id, Dataset.deleted_at.is_(None))
        .order_by(Dataset.created_at, Dataset.id)
    )
    if wanted is None:
        own = query.where(Dataset.family == family, Dataset.retired_at.is_(None))
        return [dataset for dataset in session.scalars(own) if DatasetFormat(dataset.format) in formats]
    if not wanted:
        raise InvalidInput("'dataset_ids' is empty; leave it out to take those of the family", code="no_datasets")
    found = {dataset.id: dataset for dataset in session.scalars(query.where(Dataset.id.in_(wanted)))}
    for dataset_id in wanted:
        if dataset_id not in found:
            raise NotFound(f"no dataset '{dataset_id}'", code="dataset_not_found")
        if found[dataset_id].retired_at is not None:
            raise InvalidInput(f"dataset '{dataset_id}' is retired", code="dataset_retired")
        if DatasetFormat(found[dataset_id].format) not in formats:
            supervised = all(shape.supervised for shape in formats)
            raise InvalidInput(
                f"dataset '{dataset_id}' is '{found[dataset_id].format}'; this method learns from "
                f"{'answers, not from preferences' if supervised else ' and '.join(sorted(formats))}",
                code="dataset_not_supervised" if supervised else "dataset_wrong_format",
            )
    return list(found.values())


def count_rows(
    session: ReadSession | WriteSession,
    reader: Principal,
    dataset_ids: Sequence[str],
    *,
    since: datetime | None = None,
    known: Sequence[str] = (),
) -> int:
    """Different rows in force of some datasets that the reader may read: all, or those newer than a moment that were in
    no set before it.

    known: sets beside these whose older rows are not new either.
    """
    mine = (
        rows_readable(session, reader),
        DatasetRow.dataset_id.in_(dataset_ids),
        DatasetRow.retired_at.is_(None),
    )
    query = select(func.count(func.distinct(DatasetRow.content_sha256))).where(*mine)
    if since is not None:
        older = aliased(DatasetRow)
        repeated = exists().where(
            older.content_sha256 == DatasetRow.content_sha256,
            older.dataset_id.in_([*dataset_ids, *known]),
            older.created_at <= since,
        )
        query = query.where(DatasetRow.created_at > since, ~repeated)
    return session.scalar(query) or 0


def closed_rows(
    session: ReadSession | WriteSession, reader: Principal, datasets: Sequence[Dataset]
) -> list[dict[str, str]]:
    """[{code, detail}]: how many rows of some sets will be left out because the reader may not read them."""
    in_force = (DatasetRow.dataset_id.in_([one.id for one in datasets]), DatasetRow.retired_at.is_(None))
    query = select(func.count()).where(*in_force, ~rows_readable(session, reader))
    count = session.scalar(query) or 0
    if not count:
        return []
    detail = f"{count} rows rest on documents that this key may not read; they are left out"
    return [{"code": "rows_not_readable", "detail": detail}]


def told_before(
    session: ReadSession | WriteSession, reader: Principal, datasets: Sequence[Dataset], recipe: Recipe, rows: int
) -> list[dict[str, str]]:
    """[{code, detail}]: what the gate will not forgive of some sets, what the reader may not use of them, and what the
    gate will hardly see with so few rows; a reward model passes no gate.
    """
    return [
        *unfit([(one.format, one.row_count, one.report) for one in datasets]),
        *closed_rows(session, reader, datasets),
        *([] if recipe.method is Method.REWARD else small_set(rows, Margins())),
    ]
