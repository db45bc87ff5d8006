"""Turns by tenant at generators behind HTTP: one tenant's requests hold neither all places nor all of the queue."""

from __future__ import annotations

import threading

import pytest

from core.errors import Unavailable
from generation.engines.drain import Drain
from generation.engines.turns import MAX_GUESTS, FairPool


class Desk:
    """A pool whose work ends when it is told to."""

    def __init__(self, max_parallel: int, max_queue: int) -> None:
        drain = Drain()
        self.pool = FairPool(max_parallel, max_queue, lambda: drain, "test")
        self.begun: list[str] = []
        self._changed = threading.Condition()
        self._ends: dict[str, threading.Event] = {}

    def submit(self, tenant: str, name: str) -> None:
        self._ends[name] = threading.Event()

        def work() -> None:
            with self._changed:
                self.begun.append(name)
                self._changed.notify_all()
            assert self._ends[name].wait(60)

        self.pool.submit(tenant, work)

    def wait_for(self, *names: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(names) <= set(self.begun), 60), self.begun

    def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()

    def close(self) -> None:
        self.end(*self._ends)
        self.pool.close()


def test_who_has_nothing_running_begins_beside_all_places_of_another() -> None:
    desk = Desk(max_parallel=2, max_queue=4)
    try:
        for number in range(6):
            desk.submit("many", f"many{number}")
        desk.wait_for("many0", "many1")
        with pytest.raises(Unavailable) as refused:
            desk.submit("many", "one more")
        assert refused.value.code == "queue_full" and refused.value.extra["retry_after_s"] > 0
        desk.submit("other", "other0")
        desk.wait_for("other0")
        desk.submit("other", "other1")
        assert len(desk.begun) == 3, "one guest at a time"
        desk.end("other0")
        desk.wait_for("other1")
        assert "many2" not in desk.begun, "two of them run"
        desk.end("other1", "many0")
        desk.wait_for("many2")
    finally:
        desk.close()
    assert desk.begun[:2] == ["many0", "many1"] and desk.begun[2:4] == ["other0", "other1"]
    assert sorted(desk.begun[4:]) == [f"many{number}" for number in range(2, 6)]


def test_tenants_that_wait_take_turns() -> None:
    desk = Desk(max_parallel=2, max_queue=9)
    try:
        for tenant in ("a", "a", "a", "a", "b", "b", "b"):
            desk.submit(tenant, f"{tenant}{sum(name[0] == tenant for name in desk._ends)}")
        desk.wait_for("a0", "a1", "b0")
        desk.end("a0")  # one of each runs, so the older request is next, in the place that is there
        desk.end("a1")
        desk.wait_for("a2")
        desk.end("b0")
        desk.wait_for("b1")
        assert sorted(desk.begun) == ["a0", "a1", "a2", "b0", "b1"]
    finally:
        desk.close()


def test_so_many_guests_are_let_into_a_full_queue_and_none_twice() -> None:
    desk = Desk(max_parallel=1, max_queue=2)
    try:
        for number in range(3):
            desk.submit("many", f"many{number}")
        desk.wait_for("many0")
        desk.submit("guest", "beside")
        desk.wait_for("beside")
        for number in range(MAX_GUESTS):
            desk.submit(f"guest{number}", f"guest{number}")
        for tenant in ("guest0", "one too many"):
            with pytest.raises(Unavailable):
                desk.submit(tenant, "refused")
    finally:
        desk.close()
    assert len(desk.begun) == 4 + MAX_GUESTS, "what was taken has run"
    with pytest.raises(Unavailable) as stopped:
        desk.submit("many", "late")
    assert stopped.value.code == "engine_stopped"
