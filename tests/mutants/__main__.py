"""`python -m tests.mutants --all`, `--only NAME` (again for more), `--list`. Exit 1 where a mutant survived."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.planting import Fate, NotPlanted, plant


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    chosen = parser.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--all", action="store_true", help="plant every mutant")
    chosen.add_argument("--only", action="append", metavar="NAME", help="plant this one; may be given again")
    chosen.add_argument("--list", action="store_true", help="print names and the files that they change")
    given = parser.parse_args(arguments)
    known = {mutant.name: mutant for mutant in MUTANTS}
    if given.list:
        for mutant in MUTANTS:
            print(f"{mutant.name:<34} {mutant.path}")
        return 0
    if unknown := sorted(set(given.only or ()) - known.keys()):
        parser.error(f"no mutant {', '.join(unknown)}; see --list")
    mutants = list(MUTANTS) if given.all else [known[name] for name in given.only]
    with tempfile.TemporaryDirectory(prefix="tsu-mutants-") as folder:
        try:
            fates = plant(mutants, Path(folder), lambda line: print(line, flush=True))
        except NotPlanted as error:
            print(error)
            return 1
    if fates is None:
        return 1
    killed = sum(fate is Fate.KILLED for fate in fates.values())
    print(f"{len(mutants)} planted, {killed} killed")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
