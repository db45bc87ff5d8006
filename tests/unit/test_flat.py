"""Work that must not grow with what is stored, counted in steps of SQLite's virtual machine: no clock is involved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from benchmarks.flat import examine, fill, operations, rebuild
from core.database import Database

FEW, MANY = 300, 3_000
MOST_GROWTH = 1.5
"""Trees become deeper: ten times the rows are not quite the same number of steps."""


class Counted:
    """A database of `count` documents and jobs that counts the steps of its statements, in tens."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count = folder, count
        self.db = Database(f"sqlite:///{folder / 'flat.db'}")
        self.steps = 0
        self.tenant_id, self.job_id = fill(self.db, count)
        self.db.engine.dispose()
        event.listen(self.db.engine, "connect", self._connected)

    def _connected(self, connection: Any, _record: object) -> None:
        connection.set_progress_handler(self._tick, 10)

    def _tick(self) -> int:
        self.steps += 1
        return 0

    def of(self, call: Callable[[], object]) -> int:
        call()  # what is done once, such as reading the schema
        before = self.steps
        call()
        return self.steps - before


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Counted]]:
    found = [Counted(tmp_path_factory.mktemp(str(count)), count) for count in (FEW, MANY)]
    yield found
    for one in found:
        one.db.close()


OPERATIONS = [
    "claim in turn",
    "filter: number",
    "filter: two keys",
    "filter: date, range",
    "filter: no key",
    "blob is used",
    "next delayed message",
    "dispatch due",
    "sweep",
    "list jobs",
    "list failed jobs",
    "list documents",
]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_not_grow_with_what_is_stored(stores: list[Counted], name: str) -> None:
    few, many = (one.of(operations(one.db, one.tenant_id, one.job_id, one.folder)[name]) for one in stores)
    assert many <= MOST_GROWTH * few + 20


def test_every_operation_of_the_benchmark_is_looked_at(stores: list[Counted]) -> None:
    one = stores[0]
    assert set(operations(one.db, one.tenant_id, one.job_id, one.folder)) == {*OPERATIONS, "metrics: jobs"}


def test_doctor_and_rebuild_are_linear(stores: list[Counted]) -> None:
    few, many = (one.of(lambda one=one: examine(one.db)) / one.count for one in stores)
    assert many <= MOST_GROWTH * few
    few, many = (rebuild(one.db, one.folder, lambda one=one: float(one.steps)) for one in stores)
    assert many <= MOST_GROWTH * few + 20


def test_counting_jobs_for_the_figures_takes_a_hundredth_of_the_time(stores: list[Counted]) -> None:
    many = stores[1]
    counts = operations(many.db, many.tenant_id, many.job_id, many.folder)["metrics: jobs"]
    assert sum(counts().values()) == 3 * MANY
    before = many.steps
    assert sum(counts().values()) == 3 * MANY
    assert many.steps == before
