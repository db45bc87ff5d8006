"""Trainings of seconds whose outcome is known before, and what their written adapters do to text nobody trained on.

Everything is measured from the files that a training wrote, put on the plain base: what a trainer says of itself shows
that it ran, not which way it went.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generation.adapters.forms import load_adapter
from tests.tiny_llama import build_tiny_llama
from tuning.events import StopRequest
from tuning.recipe import load_recipe
from tuning.spec import EXIT_DONE, TrainEvent, TrainSpec
from tuning.train import train

YES, NO = "Gladly, sir.", "No, never!"
"""What the toy rows prefer, and what they do not."""
TRAINED, UNSEEN = range(10, 42), range(60, 84)
"""Numbers in the questions of training, and in those that are measured."""


def build_toy_base(folder: Path) -> Path:
    """The tiny Llama with weights so large that its next token depends on what stands before, and can be moved far."""
    folder.mkdir(parents=True, exist_ok=True)
    build_tiny_llama(folder)
    enlarge(folder)
    return folder


def enlarge(base: Path) -> None:
    """Weights so large that the next token depends on what stands before, and can be moved far."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    large = {name: tensor * (1 if "norm" in name else 8) for name, tensor in tensors.items()}
    save_file(large, base / "model.safetensors", metadata={"format": "pt"})


def question(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Is shelf {number} full?"}]


def answers(completion: str = YES, numbers: Sequence[int] = TRAINED, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": question(number), "completion": completion, **more} for number in numbers]


def pairs(numbers: Sequence[int] = TRAINED) -> list[dict[str, Any]]:
    return answers(YES, numbers, rejected=NO)


def judgements(numbers: Sequence[int] = TRAINED) -> list[dict[str, Any]]:
    return [
        {"prompt": question(number), "completion": YES if number % 2 else NO, "label": bool(number % 2)}
        for number in numbers
    ]


@dataclass(frozen=True, slots=True)
class Toy:
    """A finished training."""

    adapter: Path
    events: list[TrainEvent]


def train_toy(
    folder: Path,
    base: Path,
    rows: Sequence[dict[str, Any]],
    recipe: str,
    *,
    held_out: Sequence[dict[str, Any]] | None = None,
    warm_start: Path | None = None,
    teacher: Path | None = None,
    **overrides: Any,
) -> Toy:
    """Train in this process by a packaged recipe; keyword arguments name its values with `__` for the dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("rows", rows), ("held_out", held_out or ())):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines), "utf-8")
    values = {
        "precision": "float32", "batch.rows": 8, "batch.max_steps": 20, "batch.epochs": 99, "batch.max_tokens": 256,
        "optimiser.learning_rate": 0.02, "optimiser.warmup_share": 0.0, "cadence.checkpoint_steps": 1000,
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }  # fmt: skip
    spec = TrainSpec(
        run_dir=folder / "run", base_path=base, rows_path=folder / "rows.jsonl", output_dir=folder / "adapter",
        eval_rows_path=folder / "held_out.jsonl" if held_out else None, recipe=load_recipe(recipe, values),
        warm_start=warm_start, teacher_path=teacher,
    )  # fmt: skip
    events: list[TrainEvent] = []
    assert train(spec, events.append, StopRequest()) == EXIT_DONE
    return Toy(spec.output_dir, events)


class Reader:
    """The base, and what adapters make of it, asked about questions outside the training."""

    def __init__(self, base: Path) -> None:
        from transformers import AutoTokenizer

        self._base = base
        self.tokenizer = AutoTokenizer.from_pretrained(base)

    def model(self, adapter: Path | None = None) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        plain = AutoModelForCausalLM.from_pretrained(self._base, dtype=torch.float32)
        return (plain if adapter is None else load_adapter(plain, adapter, "toy")).eval()

    def nats(self, model: Any, completion: str, numbers: Sequence[int] = UNSEEN) -> float:
        """Log-likelihood per token of a completion and its stop token, over all questions."""
        import torch

        after = [*self.tokenizer(completion, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        ids = torch.tensor([[*self.prompt(number), *after] for number in numbers])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[:, -len(after) - 1 : -1].float()
        wanted = ids[:, -len(after) :, None]
        return float(torch.log_softmax(logits, dim=-1).gather(2, wanted).mean())

    def prompt(self, number: int) -> list[int]:
        """Token ids of a question as serving renders it; all of two-digit numbers are equally long."""
        text = self.tokenizer.apply_chat_template(question(number), tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def moved(self, adapter: Path, completion: str) -> float:
        """By how much the adapter makes a completion likelier than the base does, in nats per token."""
        return self.nats(self.model(adapter), completion) - self.nats(self.model(), completion)
