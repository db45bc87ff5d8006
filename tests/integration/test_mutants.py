"""The harness of planted faults: all of them still fit the source, a handful is planted here, the rest by its command.

python -m tests.mutants --all
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.catalogue import MUTANTS
from tests.mutants.planting import ROOT, Fate, NotPlanted, plant, planted

HANDFUL = ("citations-without-their-numbers", "gate-likes-leaks", "canary-arms-exchanged", "groups-hide-nothing")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_the_source_and_names_tests_that_exist(mutant) -> None:
    compile(planted(mutant, (ROOT / mutant.path).read_text("utf-8")), mutant.path, "exec")
    for killer in mutant.killers:
        path, _, test = killer.partition("::")
        assert f"def {test.partition('[')[0]}(" in (ROOT / path).read_text("utf-8"), killer


def test_there_are_twenty_and_more_under_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 20


def test_a_handful_is_planted_and_killed() -> None:
    command = [sys.executable, "-m", "tests.mutants", *(part for name in HANDFUL for part in ("--only", name))]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.stdout.splitlines()[-1:] == [f"{len(HANDFUL)} planted, {len(HANDFUL)} killed"], done.stdout
    assert done.returncode == 0


def test_a_survivor_and_a_text_that_is_gone_are_told(tmp_path: Path) -> None:
    known = next(mutant for mutant in MUTANTS if mutant.name == HANDFUL[0])
    harmless = replace(known, name="harmless", old='"""From `[n]` in an answer', new='"""Out of `[n]` in an answer')
    broken = replace(known, name="broken", old="import itertools\n", new="import itertools_of_none\n")
    assert plant([harmless, broken], tmp_path, lambda _: None) == {
        "harmless": Fate.SURVIVED,
        "broken": Fate.NO_VERDICT,
    }
    with pytest.raises(NotPlanted, match="0 times"):
        plant([replace(known, old="no such text")], tmp_path, lambda _: None)
    failing = replace(known, killers=("tests/unit/test_citations.py::test_that_is_gone",))
    assert plant([failing], tmp_path, lambda _: None) is None, "killers that fail anyway show nothing"
    assert not (tmp_path / "tree").exists()
