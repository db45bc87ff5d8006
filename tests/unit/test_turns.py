"""Turns at archives: one of a tenant at a time, and a tenant's queue fills no threads of others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors import Unavailable
from core.turns import MAX_WAITING, Turns


def test_one_tenants_archives_leave_the_other_turn_to_others() -> None:
    turns, done, entered = Turns(2), threading.Event(), threading.Semaphore(0)

    def work(tenant: str) -> str:
        with turns.turn(tenant, 60):
            entered.release()
            assert done.wait(60)
        return tenant

    with ThreadPoolExecutor(MAX_WAITING + 2) as pool:
        first = pool.submit(work, "busy")
        assert entered.acquire(timeout=60)
        waiting = [pool.submit(work, "busy") for _ in range(MAX_WAITING)]
        while turns.waiting("busy") < MAX_WAITING:
            threading.Event().wait(0.001)
        with pytest.raises(Unavailable) as refused:
            work("busy")
        assert refused.value.code == "uploads_busy"
        other = pool.submit(work, "other")
        assert entered.acquire(timeout=60)
        done.set()
        assert [one.result(60) for one in (first, other, *waiting)] == ["busy", "other", *["busy"] * MAX_WAITING]


def test_a_turn_that_does_not_come_is_given_up_and_one_that_fails_is_given_back() -> None:
    turns = Turns(1)
    with turns.turn("a", 1):
        for tenant in ("a", "b"):
            with pytest.raises(Unavailable), turns.turn(tenant, 0.01):
                raise AssertionError("there was no turn")
    with pytest.raises(ValueError, match="broken"), turns.turn("a", 1):
        raise ValueError("broken")
    with turns.turn("b", 0.01):
        assert turns.waiting("b") == 0
