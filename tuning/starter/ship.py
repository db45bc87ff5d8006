"""Puts a trained starter where the product ships it: adapter files, and the manifest that binds them to the raw base.

python -m tuning.starter.ship --adapter FOLDER --candidates FOLDER --spec SPEC.json [--figures FILE]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path

from generation.adapters.manifest import CONFIG_FILE, WEIGHTS_FILE, build_manifest, verify, write_manifest
from generation.models import prepare_base

SHIPPED = Path(__file__).resolve().parents[2] / "starter"


def dataset_digest(candidates: Path) -> str:
    """SHA-256 over names and bytes of the candidate files: with recipe and seed they determine the rows."""
    digest = hashlib.sha256()
    for path in sorted(candidates.glob("train-*.xz")):
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m tuning.starter.ship", description=__doc__)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--spec", type=Path, required=True, help="the training spec that was run")
    parser.add_argument("--figures", type=Path, help="JSON of development figures, kept in the manifest's notes")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as models:
        base = prepare_base(Path(models), None)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if arguments.adapter.resolve() != arguments.out.resolve():
                shutil.copyfile(arguments.adapter / name, arguments.out / name)
        notes = {"figures": json.loads(arguments.figures.read_text("utf-8"))} if arguments.figures else {}
        manifest = build_manifest(
            arguments.out,
            base,
            dataset_version=dataset_digest(arguments.candidates),
            recipe=json.loads(arguments.spec.read_text("utf-8"))["recipe"],
            notes=notes,
        )
        write_manifest(arguments.out, manifest)
        verify(arguments.out, base)


if __name__ == "__main__":
    main()
