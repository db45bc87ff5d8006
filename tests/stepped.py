"""The in-process engine without its own pace: rounds run when a test says so, on the test's thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from generation.engines.handle import StreamHandle
from generation.engines.paged.batch import PagedBatch
from generation.engines.paged.pages import PAGE
from generation.engines.transformers_engine import TransformersEngine


class SteppedEngine(TransformersEngine):
    """Its thread only waits for `close`."""

    def rounds(self, count: int) -> None:
        """Up to so many rounds; fewer when nothing is left to do."""
        for _ in range(count):
            if not self.busy:
                return
            self._round()

    def drain(self) -> None:
        """Rounds until nothing is left to do."""
        while self.busy:
            self._round()

    @property
    def busy(self) -> bool:
        """Whether a row runs or waits."""
        return bool(self._queue or self._batch.rows)

    def _run(self) -> None:
        with self._lock:
            while not self._stopping:
                self._lock.wait()
        self._stop()

    def _call(self, action: Callable[[], None]) -> None:
        action()


class Ends:
    """How often each handle was ended, from the patch on."""

    def __init__(self, monkeypatch: Any) -> None:
        self.of: Counter[StreamHandle] = Counter()
        end = StreamHandle._end

        def counted(handle: StreamHandle) -> None:
            self.of[handle] += 1
            end(handle)

        monkeypatch.setattr(StreamHandle, "_end", counted)


def assert_nothing_is_held_twice(batch: PagedBatch) -> None:
    """Every page and seat is free or of one row, and the device's table says the same."""
    pool = batch._decoder.pool
    pages = [page for one in batch._seated for page in one.pages]
    assert sorted(pages + pool._free) == list(range(1, pool.count + 1)), "a page is lost or held twice"
    seats = [one.seat for one in batch._seated]
    assert sorted(seats + batch._free_seats) == list(range(batch._decoder.padding)), "a seat is lost or held twice"
    for one in batch._seated:
        assert batch._decoder.table[one.seat, : len(one.pages)].tolist() == one.pages
        assert len(one.pages) * PAGE >= one.row.most_columns


def assert_all_is_free(engine: TransformersEngine) -> None:
    """Nothing runs, waits or is held."""
    batch: Any = engine._batch
    assert not batch.rows and not engine._queue and not engine._waiting
    if isinstance(batch, PagedBatch):
        assert_nothing_is_held_twice(batch)
        assert batch._decoder.pool.free == batch._decoder.pool.count
        assert not batch._flights
