"""Calls of several threads share passes, and each caller gets its own part."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from retrieval.embedders.coalesce import MOST_TEXTS, Coalescer


class Model:
    """Encodes a text as its length; `gate` holds it up, `calls` are the texts of each pass."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.inside = 0

    def __call__(self, texts: Sequence[str], spans: Sequence[Any]) -> tuple[Any, list[Any]]:
        self.inside += 1
        assert self.inside == 1, "two passes at a time"
        self.calls.append(list(texts))
        self.begun.set()
        assert self.gate.wait(10)
        self.inside -= 1
        if any(text == "bad" for text in texts):
            raise ValueError("bad text")
        return np.array([[len(text)] for text in texts], dtype=np.float32), [np.array([[len(s)]]) for s in spans]


def waiting(shared: Coalescer, count: int) -> None:
    """Return when so many callers wait."""
    deadline = threading.Event()
    for _ in range(1000):
        if len(shared._waiting) == count:
            return
        deadline.wait(0.005)
    raise AssertionError(f"{len(shared._waiting)} wait")


def test_what_waits_goes_into_one_pass_and_everybody_gets_the_own_part() -> None:
    model = Model()
    shared = Coalescer(model)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(shared, ["a"], [[]])
        assert model.begun.wait(10)
        others = [pool.submit(shared, ["x" * n] * n, [[(0, 1)] * n] * n) for n in range(1, 7)]
        waiting(shared, 6)
        model.gate.set()
        assert first.result()[0].tolist() == [[1.0]]
        for n, other in enumerate(others, start=1):
            dense, sentences = other.result()
            assert dense.tolist() == [[float(n)]] * n and [part.tolist() for part in sentences] == [[[n]]] * n
    assert len(model.calls) == 2 and len(model.calls[1]) == 21


def test_an_error_reaches_those_whose_texts_were_in_the_pass_and_the_next_pass_runs() -> None:
    model = Model()
    shared = Coalescer(model)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(shared, ["ok"], [[]])
        assert model.begun.wait(10)
        bad, beside = pool.submit(shared, ["bad"], [[]]), pool.submit(shared, ["ok"], [[]])
        waiting(shared, 2)
        model.gate.set()
        first.result()
        for one in (bad, beside):
            with pytest.raises(ValueError, match="bad text"):
                one.result()
    assert shared(["later"], [[]])[0].tolist() == [[5.0]]


def test_a_pass_is_bounded_and_nobody_is_left_waiting() -> None:
    model = Model()
    model.gate.set()
    shared = Coalescer(model)
    with ThreadPoolExecutor(16) as pool:
        counts = [1, 100, 200, 300, 5] * 20
        found = list(pool.map(lambda n: len(shared(["x"] * n, [[]] * n)[0]), counts))
    assert found == counts
    assert all(len(call) <= max(MOST_TEXTS, 300) for call in model.calls)
