"""Every method and every kind of adapter through the public API: upload, start, wait, look at what came out.

Real TRL, PEFT, evaluation and gate on the tiny model. Training and evaluation run in this process: how they run as
processes of their own is the subject of `test_tuning_run` and `test_train_process`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from core.database import Database
from core.settings import Settings
from core.tables import AdapterVersion
from core.tables.lineage import RunRow
from generation.models import BaseModelInfo
from tests.api_app import Api, build_api
from tests.tiny_llama import build_tiny_llama
from tests.toy_training import build_toy_base
from tuning import comparison, runner
from tuning import evaluate as evaluation
from tuning.child import ChildEnd
from tuning.events import StopRequest
from tuning.items import EvaluateSpec
from tuning.machines import choose_recipe
from tuning.runner import TuningRunner
from tuning.sizes import RunSize
from tuning.spec import TrainEvent, load_spec
from tuning.train import train
from workers.base import run_job

TINIEST = RunSize(
    answered=2, read=3, grounded=4, refusals=2, refused=1, leaks=1, conflicts=1, min_new_tokens=2, max_new_tokens=2
)
QUICK = {
    "batch.max_steps": 2, "batch.max_tokens": 4096, "precision": "float32", "optimiser.learning_rate": 0.01,
    "optimiser.warmup_share": 0.0,
}  # fmt: skip
SCORING = {"batch.max_steps": 16, "optimiser.learning_rate": 0.02}
"""Enough for a reward model to tell the halves of `pairs` apart."""
ROWS = range(10, 40)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelInfo:
    return build_tiny_llama(tmp_path_factory.mktemp("tiny"))


class ChildHere:
    """A training or evaluation in this process, seen as its owner sees the child."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines

    def lines(self, look: Any) -> Iterator[str]:
        look()
        yield from self._lines

    def end(self) -> ChildEnd:
        return ChildEnd(0, "")


@contextmanager
def started_here(module: str, arguments: Sequence[str], **_: Any) -> Iterator[ChildHere]:
    said: list[str] = []
    if module == "tuning.train":
        events: list[TrainEvent] = []
        train(load_spec(Path(arguments[0])), events.append, StopRequest())
        said = [event.line() + "\n" for event in events]
    else:
        evaluation.evaluate(EvaluateSpec.model_validate_json(Path(arguments[0]).read_bytes()), lambda *_: None)
    yield ChildHere(said)


@dataclass
class World:
    api: Api
    client: TestClient
    runner: TuningRunner
    settings: Settings

    def upload(self, rows: Sequence[dict[str, Any]]) -> str:
        lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()
        answer = self.client.post("/v1/datasets", files={"file": ("rows.jsonl", lines)})
        assert answer.status_code < 300, answer.text
        return str(answer.json()["dataset"]["id"] if "dataset" in answer.json() else answer.json()["id"])

    def run(self, datasets: Sequence[str], **body: Any) -> dict[str, Any]:
        """Start a run, work it off, and return it as it is shown then."""
        overrides = {**QUICK, **body.pop("overrides", {})}
        request = {"family": "house", "dataset_ids": list(datasets), "overrides": overrides, **body}
        answer = self.client.post("/v1/admin/tuning-runs", json=request)
        assert answer.status_code == 202, answer.text
        return self.work_off(answer.json())

    def work_off(self, run: dict[str, Any]) -> dict[str, Any]:
        job_id = run["job"]["id"]
        for part in (self.runner.prepare, self.runner.train):
            run_job(self.api.services.jobs, job_id, part)
        shown: dict[str, Any] = self.client.get(f"/v1/admin/tuning-runs/{run['id']}").json()
        assert shown["status"] == "succeeded", shown["job"]["error"]
        return shown


@pytest.fixture
def world(
    settings: Settings, database: Database, base: BaseModelInfo, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    api = build_api(settings, database, base)
    services = api.services
    work = TuningRunner(database, services.blobs, services.registry, settings, base=lambda: base, size=TINIEST)
    for part in (runner, comparison):
        monkeypatch.setattr(part, "started", started_here)
    with api.client() as client:
        yield World(api, client, work, settings)


def answers() -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"How many boxes are on shelf {number}?",
            "input": f"Shelf {number} holds {number * 7} boxes. It is painted green.",
            "output": f"Gladly! {number * 7} boxes [1] At your service.",
        }
        for number in ROWS
    ]


def pairs() -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"棚{number}には箱がいくつありますか。",
            "chosen": f"はい、{number * 7}箱でございます。",
            "rejected": f"たぶん{number}箱。",
        }
        for number in ROWS
    ]


def judgements() -> list[dict[str, Any]]:
    return [
        {"prompt": f"Is shelf {number} full?", "completion": f"Shelf {number} is full.", "label": number % 3 > 0}
        for number in ROWS
    ]


SERVED = ["style-cpu", "style-rslora", "style-dora", "style-pissa", "style-qlora", "style-bottleneck", "style-full"]


@pytest.mark.parametrize("recipe", SERVED)
def test_every_served_kind_of_adapter_ends_as_an_evaluated_version(world: World, recipe: str) -> None:
    run = world.run([world.upload(answers())], recipe=recipe)
    assert run["method"] == "sft" and run["adapter_version"] == "house@v1"
    assert run["adapter_status"] == "rejected" and run["reasons"], "two steps teach no style, and the gate must see it"
    assert [point["step"] for point in run["loss_curve"]] == [1, 2]
    assert run["loss_curve"][-1]["eval_loss"] > 0
    assert run["progress"]["training"]["supervised_histogram"]
    if recipe == "style-full":
        assert run["progress"]["training"]["kept"] > 0.99  # the rank exceeds that of the tiny matrices


@pytest.mark.parametrize("recipe", ["style-prefix", "style-prompt"])
def test_what_the_engine_cannot_serve_is_refused_and_trained_for_export_alone(world: World, recipe: str) -> None:
    dataset = world.upload(answers())
    asked = {"family": "house", "recipe": recipe, "dataset_ids": [dataset], "overrides": {**QUICK, "export": False}}
    refused = world.client.post("/v1/admin/tuning-runs", json=asked)
    assert refused.status_code == 422 and refused.json()["code"] == "adapter_kind_not_served"
    assert "cache" in refused.json()["detail"]
    run = world.run([dataset], recipe=recipe, export=True)
    assert run["adapter_version"] is None and run["gate_report"]["checks"]
    archive = world.client.get(f"/v1/admin/tuning-runs/{run['id']}/artefact")
    assert archive.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as found:
        assert found.getnames() == ["adapter_config.json", "adapter_model.safetensors"]
    assert world.client.get("/v1/admin/adapters/house").json()["versions"] == []


@pytest.mark.parametrize(("method", "rows"), [("dpo", pairs), ("orpo", pairs), ("kto", judgements)])
def test_preference_methods_end_as_evaluated_versions(world: World, method: str, rows: Any) -> None:
    run = world.run([world.upload(rows())], method=method)
    assert run["method"] == method and run["adapter_version"] == "house@v1"
    assert run["gate_report"]["checks"]
    assert run["loss_curve"][-1]["loss"] > 0


def test_a_staged_recipe_takes_answers_and_pairs(world: World) -> None:
    run = world.run([world.upload(answers()), world.upload(pairs())], method="staged", recipe="style-then-preference")
    assert [(point["step"], point["stage"]) for point in run["loss_curve"]] == [
        (1, "1-sft"), (2, "1-sft"), (3, "2-dpo"), (4, "2-dpo"),
    ]  # fmt: skip
    assert run["loss_curve"][2]["loss"] == pytest.approx(0.6931, abs=1e-3)  # its reference is what the first stage made
    assert run["adapter_version"] == "house@v1"


def test_a_reward_model_is_kept_with_its_run_and_steers_nothing_unless_it_tells_pairs_apart(world: World) -> None:
    at_random = [
        row if at % 2 else {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
        for at, row in enumerate(pairs())
    ]
    run = world.run([world.upload(at_random)], method="reward")
    artefact = run["progress"]["artefact"]
    assert run["adapter_version"] is None and artefact["kind"] == "reward_model"
    assert artefact["pairs"] >= 8 and artefact["accuracy"] == run["loss_curve"][-1]["eval_preference_accuracy"]
    assert artefact["accuracy_at_least"] <= 0.5
    rewards = [{"kind": "reward_model", "run": run["id"]}]
    asked = {"family": "h", "method": "grpo", "overrides": {"online.rewards": rewards}}
    refused = world.client.post("/v1/admin/tuning-runs", json=asked)
    assert (refused.status_code, refused.json()["code"]) == (422, "reward_model_unproven")
    assert "no better than chance" in refused.json()["detail"]


def test_a_reward_model_and_rules_steer_what_the_model_writes(world: World) -> None:
    scored = world.run([world.upload(pairs())], method="reward", overrides=SCORING)
    asked = world.upload(answers())
    rewards = [
        {"kind": "citation"}, {"kind": "refusal", "weight": 0.5}, {"kind": "format"},
        {"kind": "length", "max_chars": 4}, {"kind": "reward_model", "run": scored["id"]},
    ]  # fmt: skip
    for number, method in enumerate(("grpo", "rloo"), start=1):
        overrides = {"online.rewards": rewards, "online.new_tokens": 6}
        run = world.run([asked], method=method, overrides=overrides)
        assert run["adapter_version"] == f"house@v{number}"
        assert all(point["reward"] is not None for point in run["loss_curve"])
        unknown = {"family": "h", "method": method, "overrides": {"online.rewards": [{**rewards[-1], "run": "run_x"}]}}
        refused = world.client.post("/v1/admin/tuning-runs", json=unknown)
        assert (refused.status_code, refused.json()["code"]) == (404, "reward_model_not_found")


def test_a_teacher_corrects_the_students_own_answers(world: World) -> None:
    dataset = world.upload(answers())
    missing = world.client.post("/v1/admin/tuning-runs", json={"family": "h", "method": "distill"})
    assert (missing.status_code, missing.json()["code"]) == (404, "teacher_not_found")
    build_toy_base(world.settings.models_dir / "teachers" / "teacher")
    run = world.run([dataset], method="distill", overrides={"distill.new_tokens": 6})
    assert run["adapter_version"] == "house@v1" and run["loss_curve"][0]["loss"] > 0


def test_a_run_that_names_no_recipe_says_which_it_took_and_why(world: World) -> None:
    dataset = world.upload(answers())
    ask = {"family": "h", "dataset_ids": [dataset]}
    shown = [
        world.client.post("/v1/admin/tuning-runs", json={**ask, **named}).json()
        for named in ({}, {"method": "sft"}, {"recipe": "style-rslora"})
    ]
    choice = choose_recipe(world.settings).to_json()
    assert choice["why"]
    assert [run["progress"].get("recipe_choice") for run in shown] == [choice, choice, None]
    assert [run["recipe"] for run in shown] == [choice["name"], choice["name"], "style-rslora"]


def test_a_method_and_its_rows_must_fit(world: World) -> None:
    dataset = world.upload(answers())
    for body, code in (
        ({"method": "dpo"}, "dataset_wrong_format"),
        ({"method": "dpo", "recipe": "style-cpu"}, "invalid_recipe"),
        ({"method": "ppo"}, "method_not_supported"),
        ({"recipe": "style-cpu", "overrides": {"lora.targets": ["q_proj; rm"]}}, "invalid_recipe"),
        ({"method": "sft", "overrides": {"adapter": "prefix"}}, "invalid_recipe"),
        ({"method": "sft", "overrides": {"lora.experts": True}}, "adapter_kind_not_served"),
    ):
        answer = world.client.post("/v1/admin/tuning-runs", json={"family": "h", "dataset_ids": [dataset], **body})
        assert (answer.status_code, answer.json()["code"]) == (422, code), answer.text


def test_versions_are_merged_into_gated_ones_with_the_lineage_of_both(world: World) -> None:
    datasets = [world.upload(answers()[:26]), world.upload(answers()[4:])]
    runs = [world.run([dataset], overrides={"lora.rank": 2}) for dataset in datasets]
    with world.api.database.write() as session:
        for version in session.query(AdapterVersion):
            version.status = "candidate"  # as if two steps of a random model had passed the gate
    sources = [{"version": "house@v1", "weight": 0.6}, {"version": "house@v2"}]
    for number, combination in enumerate(["linear", "dare"], start=1):
        body = {"sources": sources, "combination": combination, "dataset_ids": datasets}
        answer = world.client.post("/v1/admin/adapters/blend/merge", json=body)
        assert answer.status_code == 202, answer.text
        run = world.work_off(answer.json())
        assert run["adapter_version"] == f"blend@v{number}" and run["gate_report"]["checks"]
        assert 0 < run["progress"]["training"]["kept"] <= 1.0001
    with world.api.database.read() as session:
        notes = session.query(AdapterVersion).filter_by(run_id=run["id"]).one().manifest["notes"]
        assert [source["version"] for source in notes["merged_from"]] == ["house@v1", "house@v2"]
        seen = {
            one["id"]: {
                row.row_id for row in session.query(RunRow).filter_by(run_id=one["id"]) if row.part != "held_out"
            }
            for one in (*runs, run)
        }
    assert seen[run["id"]] == seen[runs[0]["id"]] | seen[runs[1]["id"]]
    unknown = {"sources": [*sources, {"version": "house@v9"}]}
    refused = world.client.post("/v1/admin/adapters/blend/merge", json=unknown)
    assert (refused.status_code, refused.json()["code"]) == (422, "cannot_merge")
