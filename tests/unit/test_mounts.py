"""The extractor's own /tmp must not hide the code that it still has to import."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ingest
from ingest.mounts import code_below

ROOT = Path(ingest.__file__).parents[1]


def test_code_is_found_below_its_folders_and_no_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert code_below(ROOT.parent)
    assert not code_below(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "checkout")])
    assert code_below(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces are Linux's")
def test_a_checkout_in_tmp_still_imports_what_an_old_workbook_needs() -> None:
    """The child of an OLE file would mount over /tmp, and the module that it imports next would be gone."""
    checkout = Path("/tmp") / f"tsumugi-checkout-{os.getpid()}"
    try:
        for package in ("core", "ingest"):
            shutil.copytree(ROOT / package, checkout / package, ignore=shutil.ignore_patterns("__pycache__"))
        script = (
            "from pathlib import Path\n"
            "from ingest.mounts import mount_over_tmp\n"
            f"mount_over_tmp(Path({str(checkout)!r}) / 'core')\n"
            "import ingest.landlock\n"
            "print(ingest.landlock.__file__)\n"
        )
        told = subprocess.run(
            [sys.executable, "-P", "-s", "-c", script],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert told.stdout.startswith(str(checkout))
    finally:
        shutil.rmtree(checkout, ignore_errors=True)
