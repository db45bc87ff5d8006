"""The one direction of imports, as import-linter sees it: the same contract that `make check` enforces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from importlinter.application.use_cases import read_user_options
from importlinter.configuration import configure

ROOT = Path(__file__).resolve().parents[2]


def test_layers_are_kept() -> None:
    # In a process of its own: it configures logging anew, which silences every logger there is.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contract_names_every_package() -> None:
    configure()
    options = read_user_options(config_filename=str(ROOT / "pyproject.toml"))
    (contract,) = options.contracts_options
    named = " ".join(contract["layers"])
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {
        "tests",
        "benchmarks",
        "migrations",
        "starter",
    }
    assert packages == set(named.replace("|", " ").split())
