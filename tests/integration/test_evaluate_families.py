"""The evaluation program over model families: a batch with padding says what each item gets alone.

Gemma 2 is the one that transformers does not run on torch's own attention; the program must not ask for it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.family_chat import CHATS
from tests.tiny_families import FAMILIES, build_tiny
from tuning import evaluate as program
from tuning.items import BASE, EvaluateSpec, EvaluationItem, SystemOutput, read_items, write_lines

NEW = 12
LENGTHS = (3, 40, 90, 150)
"""Characters, each a token, of prompts on both sides of the sliding windows of 64."""


def item(number: int, length: int) -> EvaluationItem:
    prompt = [{"role": "user", "content": ("shelf nine " * 20)[:length]}]
    return EvaluationItem.model_validate(
        {"id": f"i{number}", "source": "held_out", "prompt": prompt, "reference": f"Indeed, {'x' * (3 * number)}."}
    )


def evaluated(folder: Path, base: Path, *, batch: int) -> dict[str, SystemOutput]:
    spec = EvaluateSpec(
        base_path=base, items_path=folder / "items.jsonl", adapters={}, result_path=folder / f"result-{batch}.json",
        max_new_tokens=NEW, batch=batch, device="cpu",
    )  # fmt: skip
    return program.evaluate(spec, lambda *_: None).systems[BASE]


def published(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    """As transformers renders it, with what turns thinking off."""
    switches = {"enable_thinking": False, "thinking": False}
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **switches))


def alone(base: Path, family: str, one: EvaluationItem) -> float:
    """Mean negative log-likelihood per token of the reference by the eager attention, without padding or cache."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager").eval()
    turns = [turn.model_dump(include={"role", "content"}) for turn in one.prompt]
    before = tokenizer(published(tokenizer, turns), add_special_tokens=False)["input_ids"]
    answer = f"{CHATS[family].lead}{one.reference}{CHATS[family].stop}"
    after = tokenizer(answer, add_special_tokens=False)["input_ids"]
    with torch.inference_mode():
        scores = torch.log_softmax(model(torch.tensor([before + after])).logits[0].float(), dim=-1)
    return -sum(float(scores[len(before) + at - 1, token]) for at, token in enumerate(after)) / len(after)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_padded_batch_says_what_each_item_gets_alone(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / "base"
    build_tiny(family, base)
    monkeypatch.setattr(program, "_place", lambda _: ("cpu", torch.float32))  # bfloat16 would blur what padding does
    write_lines(tmp_path / "items.jsonl", [item(number, length) for number, length in enumerate(LENGTHS)])
    together = evaluated(tmp_path, base, batch=len(LENGTHS))
    one_by_one = evaluated(tmp_path, base, batch=1)
    for one in read_items(tmp_path / "items.jsonl"):
        assert together[one.id].text == one_by_one[one.id].text
        assert together[one.id].nll == pytest.approx(one_by_one[one.id].nll, abs=1e-4)
        assert together[one.id].nll == pytest.approx(alone(base, family, one), abs=1e-4)


def test_an_answer_ends_at_every_token_at_which_serving_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Llama 3 and others name several: judged by one of them, answers would run on that are served cut."""
    base = tmp_path / "base"
    build_tiny("llama", base)
    monkeypatch.setattr(program, "_place", lambda _: ("cpu", torch.float32))
    write_lines(tmp_path / "items.jsonl", [item(0, 40)])
    ids = evaluated(tmp_path, base, batch=1)["i0"]
    assert ids.finished is False and ids.text
    tokenizer, path = AutoTokenizer.from_pretrained(base), base / "generation_config.json"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    prompt = [{"role": "user", "content": ("shelf nine " * 20)[:40]}]
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = model.generate(**asked, max_new_tokens=2, do_sample=False)[0, asked["input_ids"].shape[1] :].tolist()
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": [tokenizer.eos_token_id, said[1]]}))
    cut = evaluated(tmp_path, base, batch=1)["i0"]
    assert cut.finished is True
    assert cut.text == str(tokenizer.decode(said[: said.index(said[1])])).strip()
