"""Parts of calls run side by side, each on one core."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from retrieval.embedders.passes import Passes


def test_parts_of_several_calls_run_side_by_side_and_keep_their_order() -> None:
    passes = Passes(2)
    both = threading.Barrier(2, timeout=10)

    def run(part: int) -> int:
        both.wait()  # broken unless two run at a time
        return part * 10

    with ThreadPoolExecutor(2) as callers:
        assert list(callers.map(lambda call: passes.map(run, [call, call + 1]), [1, 5])) == [[10, 20], [50, 60]]
    assert passes.map(run, []) == []


def test_an_error_is_raised_once_nothing_of_the_call_runs() -> None:
    passes = Passes(2)
    gate, begun, running = threading.Event(), threading.Event(), []

    def run(part: int) -> None:
        if part == 0:
            assert begun.wait(10)
            gate.set()
            raise ValueError("bad part")
        running.append(part)
        begun.set()
        assert gate.wait(10)
        running.remove(part)

    with pytest.raises(ValueError, match="bad part"):
        passes.map(run, range(8))
    assert running == []
    assert passes.map(str, [1]) == ["1"], "the threads live on"


def test_each_thread_computes_on_one_core() -> None:
    import torch
    from threadpoolctl import ThreadpoolController

    controller = ThreadpoolController().select(user_api="openmp")

    def threads(_: int) -> set[int]:
        torch.mm(torch.ones(64, 64), torch.ones(64, 64))
        return {library["num_threads"] for library in controller.info()}

    passes = Passes(2)
    before = threads(0)
    assert passes.map(threads, [0, 1]) == [{1}, {1}]
    with passes.alone():
        assert threads(0) == {1}
    assert threads(0) == before, "the caller's own number is left as it was"
