"""Results of tests as the methods table reads them: what passed, failed or was skipped on exactly this source.

A plugin of the suite (see `conftest`): every session adds its results to those that an earlier one left for the same
source, below pytest's cache. A change of any file of the project makes all of them results of another source.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / ".pytest_cache" / "shown.json"
_SOURCES = ("*.py", "*.yaml", "*.toml", "*.txt", "*.jsonl")


def source_of(root: Path = ROOT) -> str:
    """What tells this source from another: the commit, and a digest of every file that is not as committed.

    Outside of git, a digest of all of it.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *_SOURCES],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    names = listed.stdout.splitlines() if listed.returncode == 0 else []
    paths = [root / name for name in names] or [path for kind in _SOURCES for path in root.rglob(kind)]
    whole = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file() and ".venv" not in path.parts):
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()


def read_results(report: Path = REPORT, source: str | None = None) -> dict[str, str]:
    """{test: passed, failed or skipped} of this source; empty where there are none."""
    try:
        kept: Mapping[str, Any] = json.loads(report.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(kept["results"]) if kept.get("source") == (source or source_of()) else {}


class ShownResults:
    """Keeps the outcome of each test of a session."""

    def __init__(self, report: Path = REPORT) -> None:
        self._report = report
        self._source = source_of()
        self._found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A failure of any phase counts; a test that passes says so by its call."""
        if report.failed or report.skipped:
            self._found[report.nodeid] = report.outcome
        elif report.when == "call":
            self._found.setdefault(report.nodeid, report.outcome)

    def pytest_sessionfinish(self) -> None:
        """Only of a source that stayed what it was: a file changed meanwhile makes it nobody's result."""
        if not self._found or source_of() != self._source:
            return
        results = {**read_results(self._report, self._source), **self._found}
        self._report.parent.mkdir(exist_ok=True)
        temporary = self._report.with_suffix(".new")
        temporary.write_text(json.dumps({"source": self._source, "results": results}, indent=0), "utf-8")
        temporary.replace(self._report)
