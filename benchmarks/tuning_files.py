"""Do training files as they occur import whole, and does each train? `python -m benchmarks.tuning_files --data DIR`.

DIR holds JSON or JSONL files in any of the shapes that are taken. Each is uploaded through the API, and every row of it
must be accounted for: taken, or refused with a code and a line. Then its first rows train
through the API, by the method that fits their shape, in child processes as in the product, up to an evaluated version
or a reward model. `--base tiny` is a random Llama (what is shown is that it runs); `--base embedded` the product's own.
The application is that of the contract tests, whose generator is not asked anything here. Exit 1 if a row is missing or
a run fails.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from core.database import Database
from core.migrate import upgrade
from core.settings import Settings
from generation.build import build_base
from generation.models import BaseModelInfo
from tests.api_app import Api, build_api
from tests.tiny_llama import build_tiny_llama
from tuning.runner import TuningRunner
from tuning.sizes import SMALL, RunSize
from workers.base import run_job

METHODS = {
    "preference": ("dpo", "orpo", "kto", "reward"),
    "unpaired": ("kto",),
}
"""By format of the set; every other format is answers."""
SMOKE = RunSize(
    answered=4, read=8, grounded=8, refusals=4, refused=2, leaks=2, conflicts=2, min_new_tokens=4, max_new_tokens=8
)


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file's rows. `copies` are among those taken: a run leaves them out, and says how many."""

    file: str
    format: str
    encoding: str
    rows: int
    taken: int
    refused: int
    copies: int
    codes: dict[str, int]
    seconds: float

    @property
    def whole(self) -> bool:
        """Whether every row is accounted for."""
        return self.taken + self.refused == self.rows


@dataclass(frozen=True, slots=True)
class Trained:
    """What became of a run."""

    file: str
    method: str
    status: str
    train_rows: int
    first_loss: float | None
    last_loss: float | None
    result: str
    seconds: float


def read_rows(path: Path) -> list[str]:
    """Rows of a file as JSON texts, counted without the product's own parser."""
    text = path.read_text("utf-8-sig")
    if text.lstrip().startswith("["):
        return [json.dumps(row, ensure_ascii=False) for row in json.loads(text)]
    return [line for line in text.splitlines() if line.strip()]


def upload(client: TestClient, name: str, data: bytes) -> dict[str, Any]:
    """One dataset upload; the answer."""
    answer = client.post("/v1/datasets", files={"file": (name, data)})
    if answer.status_code >= 300:
        raise SystemExit(f"{name}: {answer.status_code} {answer.text[:500]}")
    found: dict[str, Any] = answer.json()
    return found


def import_file(client: TestClient, path: Path) -> Imported:
    """Upload a whole file and count."""
    started = time.monotonic()
    found = upload(client, path.name, path.read_bytes())
    report = found["report"]
    return Imported(
        file=path.name,
        format=found["format"],
        encoding=str(report.get("encoding")),
        rows=len(read_rows(path)),
        taken=found["row_count"],
        refused=found["invalid_count"],
        copies=len(report["duplicates"]),
        codes={code: len(lines) for code, lines in report["invalid_lines"].items()},
        seconds=round(time.monotonic() - started, 1),
    )


def train_file(client: TestClient, api: Api, runner: TuningRunner, path: Path, method: str, limit: int) -> Trained:
    """Train on a file's first rows."""
    started = time.monotonic()
    found = upload(client, f"{path.stem}.jsonl", "\n".join(read_rows(path)[:limit]).encode())
    overrides = {"batch.max_steps": 4, "batch.max_tokens": 4096}
    body = {"family": "smoke", "method": method, "dataset_ids": [found["id"]], "overrides": overrides}
    answer = client.post("/v1/admin/tuning-runs", json=body)
    if answer.status_code != 202:
        return Trained(path.name, method, answer.json()["code"], 0, None, None, answer.json()["detail"], 0.0)
    run = answer.json()
    for part in (runner.prepare, runner.train):
        run_job(api.services.jobs, run["job"]["id"], part)
    run = client.get(f"/v1/admin/tuning-runs/{run['id']}").json()
    losses = [point["loss"] for point in run["loss_curve"] if "loss" in point]
    error = run["job"]["error"] or {}
    artefact = run["progress"].get("artefact", {}).get("kind")
    return Trained(
        file=path.name,
        method=method,
        status=run["status"],
        train_rows=run["progress"].get("preparation", {}).get("train_rows", 0),
        first_loss=losses[0] if losses else None,
        last_loss=losses[-1] if losses else None,
        result=run["adapter_version"] or artefact or f"{error.get('code')}: {error.get('detail', '')[:80]}",
        seconds=round(time.monotonic() - started, 1),
    )


def measure(files: list[Path], settings: Settings, base: BaseModelInfo, limit: int, size: RunSize) -> dict[str, Any]:
    """Import and train all files over one data dir."""
    database = Database(settings.database_url)
    upgrade(database)
    api = build_api(settings, database, base)
    services = api.services
    runner = TuningRunner(database, services.blobs, services.registry, settings, base=lambda: base, size=size)
    imported, trained = [], []
    with api.client() as client:
        for path in files:
            imported.append(import_file(client, path))
            one = imported[-1]
            print(
                f"{one.file:36} {one.format:18} {one.encoding:8} rows {one.rows:6}  taken {one.taken:6}  refused "
                f"{one.refused:4}  copies {one.copies:4}  {'whole' if one.whole else 'ROWS MISSING':12} {one.codes}"
            )
        for path, one in zip(files, imported, strict=True):
            for method in METHODS.get(one.format, ("sft",)):
                trained.append(train_file(client, api, runner, path, method, limit))
                run = trained[-1]
                print(
                    f"{run.file:36} {run.method:7} {run.status:10} rows {run.train_rows:4}  loss {run.first_loss} -> "
                    f"{run.last_loss}  {run.result}  {run.seconds} s"
                )
    return {
        "imported": [{**asdict(one), "whole": one.whole} for one in imported],
        "trained": [asdict(one) for one in trained],
        "ok": all(one.whole for one in imported) and all(run.status == "succeeded" for run in trained),
    }


def main() -> None:
    """Entry point; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TSUMUGI_DATA", ".")) / "tuning")
    parser.add_argument("--limit", type=int, default=80, help="rows of each file that are trained on")
    parser.add_argument("--base", choices=("tiny", "embedded"), default="tiny")
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.data.glob("*.json*") if path.is_file())
    if not files:
        raise SystemExit(f"no .json or .jsonl below {arguments.data}")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder))
        tiny = arguments.base == "tiny"
        base = build_tiny_llama(Path(folder) / "tiny") if tiny else build_base(settings)
        found = measure(files, settings, base, arguments.limit, SMOKE if tiny else SMALL)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
