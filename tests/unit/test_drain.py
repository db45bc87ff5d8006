"""The rate of a generator's queue, on a clock that the test turns."""

from __future__ import annotations

import heapq
import random
import threading

import pytest

from generation.engines.drain import DEFAULT_S, LONGEST_S, Drain


class Clock:
    """Seconds that pass when the test says so; it starts late, as a machine that has been up for weeks."""

    def __init__(self) -> None:
        self.now = 3_000_000.25

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def drain(clock: Clock) -> Drain:
    return Drain(clock=clock)


def run_through(drain: Drain, clock: Clock, count: int, every_s: float, width: int) -> None:
    """`count` requests end, one `every_s`, and `width` run all the time; the last has ended just now."""
    drain.running(width)
    for _ in range(count):
        clock.wait(every_s)
        drain.running(width - 1)
        drain.running(width)


def test_the_default_holds_while_nothing_has_ended(drain: Drain, clock: Clock) -> None:
    assert drain.retry_after_s(64) == DEFAULT_S
    drain.running(1)
    assert DEFAULT_S < drain.retry_after_s(64) == 2 * DEFAULT_S, "the place before was told to another"


@pytest.mark.parametrize(
    ("every_s", "width", "told"), [(0.2, 8, 1), (1.0, 8, 1), (1.2, 8, 2), (5.0, 8, 5), (7.5, 1, 8), (200.0, 2, 60)]
)
def test_the_time_between_two_ends_is_told_rounded_up(
    drain: Drain, clock: Clock, every_s: float, width: int, told: int
) -> None:
    run_through(drain, clock, 40, every_s, width)
    assert drain.retry_after_s(64) == told


def test_only_the_last_ends_count(drain: Drain, clock: Clock) -> None:
    run_through(drain, clock, 100, 30.0, 4)
    run_through(drain, clock, 32, 3.0, 4)
    assert drain.retry_after_s(64) == 3


def test_an_idle_night_changes_nothing(drain: Drain, clock: Clock) -> None:
    run_through(drain, clock, 40, 3.0, 4)
    drain.running(0)
    clock.wait(10 * 3600.0)
    drain.running(4)
    assert drain.retry_after_s(64) == 3
    run_through(drain, clock, 2, 3.0, 4)
    clock.wait(3.0)  # the promise is over, and so is the usual time of silence
    assert drain.retry_after_s(64) in {3, 4}


def test_requests_one_at_a_time_say_how_fast_many_will_be(drain: Drain, clock: Clock) -> None:
    for _ in range(40):  # quiet hours: one of ten seconds, then nothing for five minutes
        with drain.work():
            clock.wait(10.0)
        clock.wait(300.0)
    drain.running(8)
    assert drain.retry_after_s(64) == 2


def test_a_stall_is_told_longer_and_longer(drain: Drain, clock: Clock) -> None:
    run_through(drain, clock, 40, 1.0, 8)
    told = []
    for _ in range(8):
        clock.wait(12.0)
        told.append(drain.retry_after_s(1000))
    assert told == sorted(told) and told[0] == 12 and told[3] >= 48 and told[-1] == LONGEST_S
    run_through(drain, clock, LONGEST_S + 1, 1.0, 8)  # so long that what was promised is over as well
    assert drain.retry_after_s(64) == 1, "a stall that is over is forgotten"


def test_a_stall_before_the_first_end_is_told_too(drain: Drain, clock: Clock) -> None:
    drain.running(4)
    clock.wait(25.0)
    assert drain.retry_after_s(64) == 25


def test_a_full_queue_of_which_nothing_runs_is_a_stall(drain: Drain, clock: Clock) -> None:
    run_through(drain, clock, 40, 1.0, 1)
    drain.running(0)
    assert drain.retry_after_s(64) == 1
    clock.wait(30.0)
    assert drain.retry_after_s(64) == 30


def test_a_clock_that_stands_still(drain: Drain) -> None:
    drain.running(8)
    drain.running(0)
    for _ in range(100):
        with drain.work():
            pass
    assert [drain.retry_after_s(64) for _ in range(3)] == [1, 1, 1]


def test_rows_that_end_together_are_one_burst(drain: Drain, clock: Clock) -> None:
    for _ in range(5):
        drain.running(8)
        clock.wait(20.0)
        drain.running(0)  # all at once
    assert drain.retry_after_s(64) == 3, "20 s for 8, though nothing runs at this moment"
    drain.running(8)
    clock.wait(10.0)
    assert 9 <= drain.retry_after_s(64) <= 11, "in the middle of the next, silence says more than the rate"


def test_those_who_are_refused_together_come_back_one_by_one(drain: Drain, clock: Clock) -> None:
    run_through(drain, clock, 40, 1.5, 2)
    told = [drain.retry_after_s(4) for _ in range(8)]
    assert told == [2, 3, 5, 6, 8, 9, 9, 9], "and none after what waits and runs is done"
    clock.wait(9.0)
    run_through(drain, clock, 1, 1.5, 2)
    assert drain.retry_after_s(4) == 2


def test_a_client_that_does_not_wait_cannot_push_others_past_the_bound(drain: Drain, clock: Clock) -> None:
    run_through(drain, clock, 40, 1.0, 2)
    for _ in range(1000):
        assert 1 <= drain.retry_after_s(4) <= 7  # six, and the moments that pass here
        clock.wait(0.001)


def test_the_refusal_carries_the_time(drain: Drain, clock: Clock) -> None:
    run_through(drain, clock, 40, 4.2, 2)
    error = drain.queue_full(64)
    assert (error.code, error.retryable, error.extra) == ("queue_full", True, {"retry_after_s": 5})


def test_work_that_fails_has_ended_as_well(drain: Drain, clock: Clock) -> None:
    for _ in range(32):
        with pytest.raises(ValueError, match="broken"), drain.work():
            clock.wait(3.0)
            raise ValueError("broken")
    assert drain.retry_after_s(64) == 3


def test_threads_lose_no_count() -> None:
    drain = Drain()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for _ in range(500):
            with drain.work():
                assert 1 <= drain.retry_after_s(8) <= LONGEST_S

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drain._running == 0 and drain._silent_since is None and len(drain._marks) == 33


def simulate(clients: int, answers: int, *, constant_s: float | None) -> tuple[int, float]:
    """Clients that ask without a pause and obey; refusals, and the share of eight places' time that was worked in."""
    clock, chance = Clock(), random.Random(5)
    drain, width, queue = Drain(clock=clock), 8, 16
    waiting = running = refused = done = 0
    began, worked = clock.now, 0.0
    events = [(clock.now + chance.random(), number, "ask") for number in range(clients)]
    heapq.heapify(events)
    while done < answers:
        moment, number, what = heapq.heappop(events)
        worked += running * (moment - clock.now)
        clock.now = moment
        if what == "end":
            done += 1
            running -= 1
            drain.running(running)
            heapq.heappush(events, (clock.now + 0.05, number, "ask"))  # whose answer it was makes no difference
        elif waiting >= queue:
            refused += 1
            told = drain.retry_after_s(waiting)
            heapq.heappush(events, (clock.now + (constant_s or told), number, "ask"))
            continue
        else:
            waiting += 1
        while waiting and running < width:
            waiting -= 1
            running += 1
            drain.running(running)
            heapq.heappush(events, (clock.now + chance.uniform(4.0, 16.0), number, "end"))
    return refused, worked / (width * (clock.now - began))


def test_a_crowd_that_obeys_asks_less_and_leaves_no_place_idle() -> None:
    constant, _ = simulate(150, 500, constant_s=2.0)
    refused, busy = simulate(150, 500, constant_s=None)
    assert busy > 0.98
    assert refused < constant / 4
