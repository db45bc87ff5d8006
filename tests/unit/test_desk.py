"""The desk: long jobs one at a time on a thread of their own."""

from __future__ import annotations

import threading

from workers.desk import Desk


def test_one_at_a_time_in_order_and_a_second_message_of_a_waiting_job_is_dropped() -> None:
    desk, first, release, done = Desk("test"), threading.Event(), threading.Event(), threading.Event()
    seen: list[str] = []

    def hold() -> None:
        first.set()
        assert release.wait(10)
        seen.append("a")

    desk.offer("a", hold)
    assert first.wait(10)
    desk.offer("b", lambda: seen.append("b"))
    desk.offer("b", lambda: seen.append("b again"))
    desk.offer("c", done.set)
    assert seen == []
    release.set()
    assert done.wait(10) and seen == ["a", "b"]
    desk.offer("a", lambda: seen.append("a again"))  # it may have been queued anew
    done.clear()
    desk.offer("d", done.set)
    assert done.wait(10) and seen == ["a", "b", "a again"]
    assert desk.close(10)


def test_work_that_fails_does_not_end_it() -> None:
    desk, done = Desk("test"), threading.Event()
    desk.offer("a", lambda: 1 / 0)
    desk.offer("b", done.set)
    assert done.wait(10)
    assert desk.close(10)


def test_what_waits_when_it_closes_is_not_begun() -> None:
    desk, first, release = Desk("test"), threading.Event(), threading.Event()
    seen: list[str] = []

    def hold() -> None:
        first.set()
        assert release.wait(10)

    desk.offer("a", hold)
    assert first.wait(10)
    desk.offer("b", lambda: seen.append("b"))
    assert not desk.close(0.01)
    release.set()
    assert desk.close(10) and seen == []
