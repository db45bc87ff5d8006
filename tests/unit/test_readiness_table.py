"""The table of what makes /readyz say no: complete, as documented, and followed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from api.readiness import EFFECTS, Effect, readiness

ROOT = Path(__file__).parents[2]


def documented() -> dict[str, Effect]:
    """{check: effect} of the table in docs/observability.md."""
    text = (ROOT / "docs" / "observability.md").read_text("utf-8")
    found = {}
    for names, answer in re.findall(r"^\| ([^|]*(?:`\w+`|draining)[^|]*) \| (503|200 degraded) \|", text, re.MULTILINE):
        for name in re.findall(r"`(\w+)`|\b(draining)\b", re.sub(r"\([^)]*\)", "", names)):
            found["".join(name)] = Effect.UNREADY if answer == "503" else Effect.DEGRADED
    return found


def checks_in_source() -> set[str]:
    """Names of all checks that any process makes."""
    calls = (
        node
        for package in ("api", "cli")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Check"
    )
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}  # type: ignore[misc]


def test_the_documented_table_is_the_one_in_force() -> None:
    assert documented() == dict(EFFECTS)


def test_every_check_has_its_effect() -> None:
    assert {"database", "disk", "index", "blobs", "beat"} <= checks_in_source() <= set(EFFECTS)


@pytest.mark.parametrize("away", sorted(EFFECTS))
def test_each_one_alone(away: str) -> None:
    checks = {name: {"state": "failing" if name == away else "ok"} for name in EFFECTS if name != "draining"}
    status, body = readiness(checks, draining=away == "draining")
    if EFFECTS[away] is Effect.UNREADY:
        assert (status, body["degraded"]) == (503, [])
        assert body["status"] == ("draining" if away == "draining" else "not_ready")
    else:
        assert (status, body["status"], body["degraded"]) == (200, "ready", [away])
    assert body["checks"] == checks


def test_what_degrades_does_not_hide_what_stops() -> None:
    failing = {"state": "failing"}
    status, body = readiness({"disk": failing, "index": failing, "broker": {"state": "ok"}}, draining=False)
    assert (status, body["status"], body["degraded"]) == (503, "not_ready", ["disk"])


def test_an_unknown_check_is_an_error() -> None:
    with pytest.raises(KeyError):
        readiness({"printer": {"state": "failing"}}, draining=False)
