"""`docs/api-errors.md` lists every stable code with its status, and none that does not exist."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from api.errors import CODE_OF_STATUS, STATUS_OF_CODE, STATUS_OF_ERROR, status_of
from core import errors as core_errors
from core.errors import TsumugiError

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "retrieval", "generation", "ingest", "tuning", "erasure", "api", "workers")
HELPERS = frozenset({"_invalid", "_field_error", "refuse", "problem_response", "_refused", "_broken", "_error"})
"""Functions that make an error of a code given by position, or a response of one given by name."""
CODE = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
CLASSES = {
    name: value
    for name, value in vars(core_errors).items()
    if isinstance(value, type) and issubclass(value, TsumugiError)
}
BY_CLASS = {kind.default_code: status_of(kind("x")) for kind in CLASSES.values()}


def codes_in_source() -> dict[str, set[int | None]]:
    """{code: statuses}; None where the class is not in sight."""
    found: dict[str, set[int | None]] = defaultdict(set)
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
            for code in _codes_of(call, name):
                kind = CLASSES.get(name)
                found[code].add(status_of(kind("x", code=code)) if kind else STATUS_OF_CODE.get(code))
    return found


def _codes_of(call: ast.Call, name: str) -> Iterator[str]:
    if name in CLASSES or name in HELPERS:
        for keyword in call.keywords:
            if keyword.arg == "code" and isinstance(keyword.value, ast.Constant):
                yield str(keyword.value.value)
    if name in HELPERS and call.args and isinstance(call.args[-1], ast.Constant):
        last = call.args[-1].value
        if isinstance(last, str) and CODE.fullmatch(last):
            yield last


def documented() -> dict[str, str]:
    """{code: status or 'job'} of the tables."""
    text = (ROOT / "docs" / "api-errors.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| ([0-9]{3}|job) \| \S", text, re.MULTILINE)
    assert len(rows) == len({code for code, _ in rows}), "a code is listed twice"
    return dict(rows)


def test_every_code_is_documented_with_its_status() -> None:
    listed = documented()
    known = codes_in_source()
    assert len(known) > 60, "the walk found too few codes to mean anything"
    missing = sorted(set(known) - set(listed))
    assert not missing, f"docs/api-errors.md lacks {missing}"
    for code, statuses in known.items():
        seen = {str(status) for status in statuses if status is not None}
        assert listed[code] == "job" or not seen or listed[code] in seen, (code, listed[code], seen)


def test_the_tables_of_the_edge_are_documented() -> None:
    listed = documented()
    for code, status in {**BY_CLASS, **STATUS_OF_CODE}.items():
        if code in {"lease_lost", "interrupted", "postponed", "data_dir_busy"}:
            continue  # never leave the process that raises them
        assert listed.get(code) in {str(status), "job"}, (code, listed.get(code), status)
    for code in CODE_OF_STATUS.values():
        assert code in listed, code


def test_no_code_is_documented_that_nothing_raises() -> None:
    source = "\n".join(path.read_text("utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    for code in documented():
        made = any(
            code.startswith(f"{what}_") and f'f"{{what}}{code.removeprefix(what)}"' in source
            for what in ("train", "evaluate")
        )
        assert f'"{code}"' in source or made, f"nothing raises {code}"


def test_every_error_class_has_a_status() -> None:
    assert not [name for name, kind in CLASSES.items() if kind not in STATUS_OF_ERROR]
