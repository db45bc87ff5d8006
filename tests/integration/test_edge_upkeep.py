"""What the index does by itself: flushes soon after a write, makes graphs when it is quiet."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from core.types import IndexPoint, SparseVector
from retrieval.index import edge
from retrieval.index.edge import EdgeIndex


def points(count: int, first: int = 0) -> list[IndexPoint]:
    return [
        IndexPoint(
            id=f"00000000-0000-0000-0000-{number:012d}", tenant_id="t", collection_id="c", document_id="d",
            generation=1,
            ordinal=number, groups=("*",), dense=(1.0, float(number % 7), 1.0, 0.0),
            sparse=SparseVector((number % 5,), (1.0,)),
        )
        for number in range(first, first + count)
    ]  # fmt: skip


def until(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)  # the index's own thread works


def test_writes_are_flushed_soon_and_only_once_for_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "FLUSH_WITHIN_S", 0.2)
    index = EdgeIndex(tmp_path / "i", dim=4)
    flushes: list[float] = []
    real = index.flush

    def flush() -> None:
        flushes.append(time.monotonic())
        real()

    monkeypatch.setattr(index, "flush", flush)
    for number in range(5):
        index.upsert(points(3, first=3 * number))
        index.flush_soon()
    assert flushes == []
    until(lambda: flushes)
    assert len(flushes) == 1 and index.count() == 15
    index.close()


def test_graphs_are_made_when_it_is_quiet_and_not_again_for_the_same_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "FLUSH_WITHIN_S", 0.01)
    monkeypatch.setattr(edge, "OPTIMIZE_AFTER_S", 0.05)
    monkeypatch.setattr(edge, "OPTIMIZE_FROM", 50)
    index = EdgeIndex(tmp_path / "i", dim=4)
    rounds: list[int] = []
    real = index.optimize

    def optimize() -> bool:
        rounds.append(index.count())
        return real()

    monkeypatch.setattr(index, "optimize", optimize)
    index.upsert(points(200))
    index.flush_soon()
    until(lambda: rounds)
    until(lambda: index._left_unindexed > 0)
    index.upsert(points(10, first=200))
    index.flush_soon()
    until(lambda: not index._asked.is_set())
    time.sleep(0.3)  # longer than it waits for quiet: a second round would have begun
    assert rounds == [200], "ten points more are not worth another round"
    index.close()
    reopened = EdgeIndex(tmp_path / "i", dim=4)
    assert reopened.count() == 210
    reopened.close()


def test_a_failed_round_is_told_and_the_index_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "FLUSH_WITHIN_S", 0.01)
    monkeypatch.setattr(edge, "OPTIMIZE_AFTER_S", 0.02)
    monkeypatch.setattr(edge, "OPTIMIZE_FROM", 10)
    index = EdgeIndex(tmp_path / "i", dim=4)
    tried: list[int] = []

    def fail() -> bool:
        tried.append(1)
        raise RuntimeError("no space left on device")

    monkeypatch.setattr(index, "optimize", fail)
    index.upsert(points(40))
    index.flush_soon()
    until(lambda: tried)
    index.upsert(points(5, first=40))
    index.flush_soon()
    until(lambda: index.count() == 45)
    index.close()
