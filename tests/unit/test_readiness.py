"""/readyz while a dependency hangs: it is asked once, its last answer is shown, the others are asked as ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from api.routes import health
from api.services import Check
from core.database import Database


def test_forty_looks_at_a_frozen_dependency_ask_it_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 0.3)
    frozen, asked, other = threading.Event(), [], []

    def index() -> str:
        asked.append(1)
        if len(asked) > 1:
            frozen.wait(20)
        return "12 points"

    checks = (Check("index", index), Check("broker", lambda: other.append(1)))
    services: Any = SimpleNamespace(db=database, checks=checks, probes={})
    assert health.run_checks(services)["index"]["detail"] == "12 points"
    with ThreadPoolExecutor(40) as looks:
        answers = list(looks.map(lambda _: health.run_checks(services), range(40)))
    assert len(asked) == 2 and len(other) > 1
    for answer in answers:
        assert answer["index"]["state"] == "failing" and answer["index"]["last"]["detail"] == "12 points"
        assert answer["database"]["state"] == answer["broker"]["state"] == "ok"
    frozen.set()
    services.probes["index"].answer.result(5)
    assert health.run_checks(services)["index"]["state"] == "ok"
