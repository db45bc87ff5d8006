"""The one direction of imports, as import-linter sees it: the same contract that `make check` enforces."""

from __future__ import annotations

from pathlib import Path

from importlinter.application.use_cases import read_user_options
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[2]


def test_layers_are_kept() -> None:
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == 0


def test_the_contract_names_every_package() -> None:
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
