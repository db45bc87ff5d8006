"""What a base said to shipped questions is not asked twice, and nothing of a tenant is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_llama import build_tiny_llama
from tuning.evaluate import evaluate
from tuning.items import BASE, EvaluateSpec, EvaluationItem, SystemOutput, write_lines
from tuning.known_answers import KnownAnswers
from tuning.questions import neutral_items, probe_items
from tuning.spec import TrainMessage

OWN = EvaluationItem(
    id="document:1", source="document", prompt=(TrainMessage(role="user", content="Question: Which number?"),),
    expected=(("7",),), gold=(1,),
)  # fmt: skip


def test_shipped_questions_are_known_by_base_device_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "evaluations" / "base.json"
    items = [*probe_items(3, 2), OWN]
    outputs = {item.id: SystemOutput(text=f"said {item.id}", finished=True) for item in items}
    known = KnownAnswers(path, "cpu float32", 48)
    assert known.of(items) == {}
    known.keep(items, outputs)
    again = KnownAnswers(path, "cpu float32", 48).of([*items, *probe_items(4, 2)])
    assert again == {item.id: outputs[item.id] for item in items[:5]}, "of the tenant's own nothing is kept"
    assert OWN.id not in path.read_text("utf-8") and "document:1" not in path.read_text("utf-8")
    assert KnownAnswers(path, "cuda bfloat16", 48).of(items) == KnownAnswers(path, "cpu float32", 96).of(items) == {}
    other = items[0].model_copy(update={"prompt": OWN.prompt})
    assert KnownAnswers(path, "cpu float32", 48).of([other]) == {}, "another prompt under the same id is not known"
    path.write_text("{", "utf-8")
    assert KnownAnswers(path, "cpu float32", 48).of(items) == {}


@pytest.mark.parametrize("kept", [True, False])
def test_an_evaluation_asks_the_base_what_it_has_not_said(tmp_path: Path, kept: bool) -> None:
    base = build_tiny_llama(tmp_path)
    items = [*probe_items(4, 3), *neutral_items()[:2], OWN]
    write_lines(tmp_path / "items.jsonl", items)
    spec = EvaluateSpec(
        base_path=base.path, items_path=tmp_path / "items.jsonl", adapters={}, result_path=tmp_path / "result.json",
        max_new_tokens=4, known_path=tmp_path / "known.json" if kept else None, device="cpu",
    )  # fmt: skip
    totals: list[int] = []
    first, second = (evaluate(spec, lambda _done, total: totals.append(total)) for _ in range(2))
    assert first.systems == second.systems and set(first.systems[BASE]) == {item.id for item in items}
    assert (max(totals), min(totals)) == ((10, 1) if kept else (10, 10))
