"""A copy of the tree, in which a text is replaced and tests are run that must then fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LINKED_BYTES = 1_000_000
"""Larger files are weights: linked, since no mutant is planted in them."""
_COMMON = ("pytest", "hypothesis", "schemathesis.pytest.plugin", "fastapi", "numpy", "redis", "sqlalchemy", "structlog")
_HEAVY = ("torch", "transformers", "peft", "trl")
"""Imported once, before the processes that run tests are forked; `_HEAVY` for those that train."""
_ALL_PASSED, _SOME_FAILED = 0, 1
"""Exit codes of pytest; its others say that no test was run to its end, which is no verdict."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: `old`, which stands exactly once in the file at `path`, becomes `new`; `killers` must see it."""

    name: str
    path: str
    old: str
    new: str
    killers: tuple[str, ...]
    """Tests by node id. One that fails is enough; all of them pass without the fault."""
    trains: bool = False
    """Whether the killers import what trains."""


class Fate(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    SURVIVED = "survived"
    NO_VERDICT = "no verdict"
    """The killers could not be run: the fault broke an import, or a test is not there any more."""


class NotPlanted(Exception):
    """The text to replace is not there exactly once: the source has changed, and the mutant must follow."""


def planted(mutant: Mutant, source: str) -> str:
    """`source` with the fault in it.

    Raises:
        NotPlanted: it cannot be put there.
    """
    count = source.count(mutant.old)
    if count != 1 or mutant.old == mutant.new:
        raise NotPlanted(f"{mutant.name}: its text stands {count} times in {mutant.path}, not once")
    return source.replace(mutant.old, mutant.new)


@contextmanager
def copied_tree(folder: Path, root: Path = ROOT) -> Iterator[Path]:
    """What git knows of the checkout and what it would add, as it stands now; gone afterwards."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    copy = folder / "tree"
    try:
        for name in filter(None, listed.split("\0")):
            source, target = root / name, copy / name
            if source.is_file():  # a file deleted and not committed is still listed
                target.parent.mkdir(parents=True, exist_ok=True)
                if source.stat().st_size > _LINKED_BYTES:
                    target.symlink_to(source)
                else:
                    shutil.copyfile(source, target)
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def run_tests(tree: Path, tests: Sequence[str], log: Path) -> int:
    """Exit code of pytest over `tests` of a tree, in a forked process; what it prints goes to `log`."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = _tests_here(tree, tests, log)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _tests_here(tree: Path, tests: Sequence[str], log: Path) -> int:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT)]
    for name, module in list(sys.modules.items()):  # what the checkout was imported from is not what the tree holds
        file = Path(getattr(module, "__file__", None) or "/")
        if file.is_relative_to(ROOT) and "site-packages" not in file.parts:
            del sys.modules[name]
    import pytest

    return int(
        pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=--strict-markers --timeout=300", *tests])
    )


def import_once(*, trains: bool) -> None:
    """Import what the tests will, so that forked processes need not."""
    import importlib

    for name in (*_COMMON, *(_HEAVY if trains else ())):
        importlib.import_module(name)
    if trains:  # transformers and TRL import lazily
        from trl import DPOTrainer, GRPOTrainer, SFTTrainer  # noqa: F401


def plant(
    mutants: Sequence[Mutant], folder: Path, say: Callable[[str], object], root: Path = ROOT
) -> dict[str, Fate] | None:
    """The fate of each mutant; None where the killers fail in the untouched copy already.

    Raises:
        NotPlanted: see `planted`; nothing was run.
    """
    for mutant in mutants:
        planted(mutant, (root / mutant.path).read_text("utf-8"))
    import_once(trains=any(mutant.trains for mutant in mutants))
    log = folder / "log"
    fates: dict[str, Fate] = {}
    with copied_tree(folder, root) as tree:
        killers = list(dict.fromkeys(test for mutant in mutants for test in mutant.killers))
        if run_tests(tree, killers, log) != _ALL_PASSED:
            say(f"the tests fail without any fault:\n{log.read_text('utf-8', 'replace')[-4_000:]}")
            return None
        for mutant in mutants:
            began = time.monotonic()
            target = tree / mutant.path
            source = target.read_text("utf-8")
            target.write_text(planted(mutant, source), "utf-8")
            code = run_tests(tree, mutant.killers, log)
            target.write_text(source, "utf-8")
            fates[mutant.name] = {_SOME_FAILED: Fate.KILLED, _ALL_PASSED: Fate.SURVIVED}.get(code, Fate.NO_VERDICT)
            say(f"{fates[mutant.name]:<11} {mutant.name} ({time.monotonic() - began:.1f} s)")
            if fates[mutant.name] is Fate.NO_VERDICT:
                say(log.read_text("utf-8", "replace")[-2_000:])
    return fates
