"""An adapter that was really trained passes the gate, is promoted without force, serves, and is rolled back.

Everything is real: trainer, evaluation, gate, registry and engine, over a random base of 60,000 parameters. Such a base
knows no facts, so that none can suffer: what it can learn in seconds is a style, which is what is asked of it here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from core.database import Database
from core.settings import GenerationSettings, Settings
from core.types import AdapterRef, GenerationRequest, Message
from generation.engines.transformers_engine import TransformersEngine
from generation.models import BaseModelInfo, describe_base
from tests.api_app import build_api
from tests.integration.test_methods_through_api import World, answers, started_here
from tests.toy_training import build_toy_base
from tuning import comparison, evaluate, runner
from tuning.items import CANDIDATE, Evaluation, EvaluationItem, read_items
from tuning.prepare import ITEMS_FILE
from tuning.runner import TuningRunner
from tuning.sizes import RunSize

NEW_TOKENS = 40
SIZE = RunSize(
    answered=8, read=8, grounded=90, refusals=40, refused=4, leaks=2, conflicts=2,
    min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS,
)  # fmt: skip
LEARN = {
    "batch.max_steps": 60, "batch.epochs": 99, "batch.max_tokens": 4096, "batch.rows": 8, "precision": "float32",
    "optimiser.learning_rate": 0.01, "lora.rank": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelInfo:
    return describe_base(build_toy_base(tmp_path_factory.mktemp("toy") / "base"), "toy")


@pytest.fixture
def world(
    settings: Settings, database: Database, base: BaseModelInfo, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    api = build_api(settings, database, base)
    services = api.services
    work = TuningRunner(database, services.blobs, services.registry, settings, base=lambda: base, size=SIZE)
    for part in (runner, comparison):
        monkeypatch.setattr(part, "started", started_here)
    monkeypatch.setattr(evaluate, "_place", lambda _: ("cpu", torch.float32))  # the precision of the engine below
    with api.client() as client:
        yield World(api, client, work, settings)


def served(base: BaseModelInfo, adapter: AdapterRef | None, items: Sequence[EvaluationItem]) -> list[str]:
    """What the engine answers to the prompts of items."""
    settings = GenerationSettings.model_validate({"max_adapters": 2, "context_tokens": 2048, "decoder": "plain"})
    engine = TransformersEngine(base, settings, dtype=torch.float32)
    try:
        handles = [
            engine.submit(
                GenerationRequest(tuple(Message(one.role, one.content) for one in item.prompt), adapter, NEW_TOKENS)
            )
            for item in items
        ]
        return [handle.result().text.strip() for handle in handles]
    finally:
        engine.close()


def test_train_gate_promote_serve_roll_back(world: World, base: BaseModelInfo) -> None:
    rows = [{**row, "output": "Gladly! At your service, as ever."} for row in answers()]
    run = world.run([world.upload(rows)], overrides=LEARN)
    report = run["gate_report"]
    assert run["adapter_status"] == "candidate" and report["passed"], report["reasons"]
    better = {check["name"]: check["difference"] for check in report["checks"] if check["kind"] == "superiority"}
    assert better["likelihood"] > 1.0 and better["similarity"] > 0.3

    route = world.api.services.router.resolve
    tenant = world.api.tenant.id
    house = "/v1/admin/adapters/house"
    assert route(tenant, None) is None
    moved = world.client.post(f"{house}/promote", json={"version": "v1"})
    assert moved.status_code == 200, moved.text
    serving = route(tenant, None)
    assert serving is not None and serving.stamp == "house@v1" and Path(serving.path).is_dir()
    folder = world.settings.runs_dir / run["id"]
    items = [item for item in read_items(folder / ITEMS_FILE) if item.source == "held_out"][:4]
    judged = Evaluation.model_validate_json((folder / "evaluation.json").read_bytes()).systems[CANDIDATE]
    assert served(base, serving, items) == [judged[item.id].text for item in items], "what was judged is what serves"
    assert sum("Gladly! At your service" in text for text in served(base, serving, items)) >= 3
    back = world.client.post(f"{house}/rollback", json={"reason": "enough"})
    assert back.status_code == 200 and back.json()["to"] is None
    assert route(tenant, None) is None
    assert not any("Gladly" in text for text in served(base, None, items))
