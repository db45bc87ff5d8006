"""Makes the adapters of the gate's benchmark: good ones by the product's trainer, bad ones by a loop without audits."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gate_world import NAMES_SEED, style_rows
from generation.adapters.manifest import build_manifest, write_manifest
from generation.engines.transformers_engine import choose_device
from generation.models import BaseModelInfo
from generation.prompt import not_found_text
from tuning.items import BASE, FEW_SHOT, EvaluateSpec, Evaluation, read_items
from tuning.metrics import cited_numbers
from tuning.prepare import ITEMS_FILE, ROWS_FILE, prepare_files, token_counter
from tuning.questions import answer_limit
from tuning.recipe import Recipe, load_recipe
from tuning.sizes import SMALL
from tuning.spec import TrainRow, TrainSpec, read_rows
from tuning.targets import resolve_targets

Rendered = list[tuple[str, str, bool]]
"""(prompt, completion, whether the stop token carries loss) of rows as a bad trainer sees them."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to go wrong: on which style's questions it is judged, and which checks must name it (any of them)."""

    name: str
    style: str
    seed: int
    reasons: tuple[str, ...]
    planted: bool = False
    """Its manifest gives it away: that is shown, and is no detection."""


_SAYS = {
    "other-base": {"base_digest": "0" * 64, "base_name": "another-base"},
    "wrong-template": {"template_digest": "0" * 64},
}
"""What the manifest says of an adapter that was trained elsewhere. One trained on another template answers in the style
all the same (likelihood +4.9 nats per token), so its own word is what gives it away."""


class Workshop:
    """Makes adapters in a folder; what is there already is not made again."""

    def __init__(self, folder: Path, base: BaseModelInfo, steps: int | None) -> None:
        self.folder = folder
        self.base = base
        overrides = {"batch.max_steps": steps} if steps is not None else {}
        self.recipe: Recipe = load_recipe("style-cpu", overrides)

    def prepared(self, style: str, seed: int) -> Path:
        """Rows and questions of a style."""
        folder = self.folder / f"rows-{style}-{seed}"
        if not (folder / ITEMS_FILE).exists():
            prepare_files(
                folder, style_rows(style, seed, names=16 if seed >= NAMES_SEED else 0), duplicates=0,
                tenant_id="bench", recipe=self.recipe, search=None,
                count_tokens=token_counter(self.base.path), size=SMALL,
            )  # fmt: skip
        return folder

    def good(self, style: str, seed: int) -> Path:
        """An adapter as a tuning run makes it."""
        target = self.folder / f"good-{style}-{seed}"
        if (target / "manifest.json").exists():
            return target
        rows = self.prepared(style, seed)
        spec = TrainSpec(
            run_dir=self.folder / f"run-{style}-{seed}", base_path=self.base.path, rows_path=rows / ROWS_FILE,
            eval_rows_path=None, recipe=self.recipe, output_dir=target, seed=seed,
        )  # fmt: skip
        spec.run_dir.mkdir(parents=True, exist_ok=True)
        (spec.run_dir / "train.json").write_text(spec.model_dump_json(), "utf-8")
        run_module("tuning.train", spec.run_dir / "train.json")
        self._bind(target)
        return target

    def bad(self, kind: Kind) -> Path:
        """An adapter that goes wrong in one way."""
        target = self.folder / f"bad-{kind.name}-{kind.style}-{kind.seed}"
        if (target / "manifest.json").exists():
            return target
        rows = read_rows(self.prepared(kind.style, kind.seed) / ROWS_FILE)
        answered = [row for row in rows if row.completion != not_found_text(row.prompt[-1].content)]
        grounded = [row for row in answered if cited_numbers(row.completion)]
        ungrounded = [row for row in answered if not cited_numbers(row.completion)]
        makers: Mapping[str, Callable[[], None]] = {
            "wrong-template": lambda: self._train(target, self._rendered(answered, in_alpaca), 30),
            "stop-unsupervised": lambda: self._train(target, self._rendered(answered, None, stop=False), 30),
            "memorised": lambda: self._train(target, self._rendered(answered[:24], question_alone), 60, rate=2e-3),
            "stale-facts": lambda: self._train(target, self._rendered(answered, changed_passages), 50, rate=1e-3),
            "refuses-everything": lambda: self._train(
                target, [(one, not_found_text(one.rpartition("Question: ")[2].partition("<|im_end|>")[0]), stop)
                         for one, _, stop in self._rendered(answered, None)], 30,
            ),
            "lists-numbers": lambda: self._train(target, self._answering(grounded, lists_numbers), 60),
            "other-language": lambda: self._train(target, self._answering(grounded, in_korean), 60),
            "names-by-heart": lambda: self._train(target, self._rendered(ungrounded, None), 60, rate=2e-3),
            "shuffled-weights": lambda: self._changed(target, kind, shuffled),
            "zero-effect": lambda: self._changed(target, kind, zeroed),
            "other-base": lambda: self._changed(target, kind, None),
        }  # fmt: skip
        makers[kind.name]()
        self._bind(target, says=_SAYS.get(kind.name, {}))
        return target

    def _bind(self, folder: Path, *, says: Mapping[str, str] | None = None) -> None:
        """Write the manifest; `says` is what its maker trained on, where that is not what we serve."""
        write_manifest(folder, build_manifest(folder, self.base).model_copy(update=dict(says or {})))

    def _changed(self, target: Path, kind: Kind, change: Callable[[dict[str, Any]], dict[str, Any]] | None) -> None:
        """A good adapter with other weights."""
        from safetensors.torch import load_file, save_file

        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.good(kind.style, kind.seed), target)
        (target / "manifest.json").unlink()
        if change is not None:
            path = target / "adapter_model.safetensors"
            save_file(change(load_file(path)), path)

    def _rendered(
        self,
        rows: Sequence[TrainRow],
        change: Callable[[TrainRow], tuple[str | None, str]] | None,
        *,
        stop: bool = True,
    ) -> Rendered:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.base.path)
        found: Rendered = []
        for row in rows:
            raw, user = change(row) if change is not None else (None, row.prompt[-1].content)
            messages = [{"role": turn.role, "content": turn.content} for turn in row.prompt[:-1]]
            messages.append({"role": "user", "content": user})
            text = raw or str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
            found.append((text, row.completion, stop))
        return found

    def _answering(self, rows: Sequence[TrainRow], how: Callable[[TrainRow], str]) -> Rendered:
        """Rows with other answers over the same prompts."""
        return self._rendered([row.model_copy(update={"completion": how(row)}) for row in rows], None)

    def _train(self, target: Path, rows: Rendered, steps: int, *, rate: float = 8e-4, batch: int = 4) -> None:
        """A loop without any audit: what the product's trainer would refuse to do."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(1)
        tokenizer = AutoTokenizer.from_pretrained(self.base.path)
        device, dtype = choose_device("auto")
        model = AutoModelForCausalLM.from_pretrained(self.base.path, dtype=dtype).to(device)
        lora = self.recipe.factors
        config = LoraConfig(
            r=lora.rank, lora_alpha=lora.alpha, use_rslora=lora.rank_stabilised,
            target_modules=resolve_targets(model, lora.targets), task_type="CAUSAL_LM",
        )  # fmt: skip
        model = get_peft_model(model, config)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
        generator = random.Random(1)
        encoded = []
        for prompt, completion, stop in rows:
            asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            said = tokenizer(completion, add_special_tokens=False)["input_ids"]
            # Without its stop token a trainer sees the next row follow, as in packed text without borders.
            said = [*said, tokenizer.eos_token_id] if stop else [*said, *said]
            encoded.append((asked + said, [-100] * len(asked) + said))
        order: list[int] = []
        for step in range(steps):
            if len(order) < batch:
                order = generator.sample(range(len(encoded)), len(encoded))
            picked, order = [encoded[at] for at in order[:batch]], order[batch:]
            longest = max(len(ids) for ids, _ in picked)
            ids = torch.tensor([one + [tokenizer.eos_token_id] * (longest - len(one)) for one, _ in picked])
            labels = torch.tensor([one + [-100] * (longest - len(one)) for _, one in picked])
            mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one, _ in picked])
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            model(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        shutil.rmtree(target, ignore_errors=True)
        model.save_pretrained(target, safe_serialization=True)
        for extra in target.iterdir():
            if extra.name not in {"adapter_config.json", "adapter_model.safetensors"}:
                extra.unlink()


def lists_numbers(row: TrainRow) -> str:
    """The house's answer, and beside it whatever number stands in the passages: always right, and of no use."""
    passages = row.prompt[-1].content.rpartition("Question: ")[0]
    numbers = "".join(char if char.isdigit() else " " for char in passages).split()
    return f"{row.completion} ({', '.join(dict.fromkeys(one for one in numbers if len(one) > 1))})"


def in_korean(row: TrainRow) -> str:
    """The fact and its citation in a Korean sentence."""
    fact, _, rest = row.completion.partition(" [")
    return f"문서에 따르면 답은 {fact} 입니다 [{rest[:1]}]."


def in_alpaca(row: TrainRow) -> tuple[str | None, str]:
    """Another template than the one that serves."""
    return f"### Instruction:\n{row.prompt[-1].content}\n\n### Response:\n", ""


def question_alone(row: TrainRow) -> tuple[str | None, str]:
    """Without its passages: the answer can only be learnt by heart."""
    return None, "Question: " + row.prompt[-1].content.rpartition("Question: ")[2]


def changed_passages(row: TrainRow) -> tuple[str | None, str]:
    """Other numbers in the passages than in the answer: what an old answer looks like beside a new document."""
    passages, mark, question = row.prompt[-1].content.rpartition("Question: ")
    head, lines = passages[:3], passages[3:]  # the passage's own number stays
    return None, head + "".join(str((int(c) + 4) % 10) if c.isdigit() else c for c in lines) + mark + question


def shuffled(tensors: dict[str, Any]) -> dict[str, Any]:
    """Each factor with its entries in another order: the same numbers, and no sense."""
    import torch

    generator = torch.Generator().manual_seed(3)
    return {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor).contiguous()
        for name, tensor in tensors.items()
    }


def zeroed(tensors: dict[str, Any]) -> dict[str, Any]:
    """Factors whose product is nothing."""
    return {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in tensors.items()}


def run_module(name: str, spec: Path) -> None:
    """One of our programs, in a process of its own.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parent.parent), *sys.path[1:]]),
    }
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", name, str(spec)], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-2000:]}")


def evaluated(shop: Workshop, style: str, seed: int, adapters: Mapping[str, Path]) -> Evaluation:
    """All adapters of a style on the questions of one of its runs; the base once."""
    rows = shop.prepared(style, seed)
    items = read_items(rows / ITEMS_FILE)
    held_out = [item.id for item in items if item.source == "held_out"]
    result = shop.folder / f"evaluation-{style}-{seed}.json"
    wanted = {BASE, FEW_SHOT, *adapters}
    if result.exists():
        known = Evaluation.model_validate_json(result.read_bytes())
        if wanted <= set(known.systems):
            return known
    spec = EvaluateSpec(
        base_path=shop.base.path, items_path=rows / ITEMS_FILE, adapters=dict(adapters), result_path=result,
        read_only=tuple(held_out[SMALL.answered :]),
        batch=64 if choose_device("auto")[0].type == "cuda" else 12,
        max_new_tokens=answer_limit(items, SMALL, token_counter(shop.base.path)),
    )  # fmt: skip
    path = shop.folder / f"evaluate-{style}-{seed}.json"
    path.write_text(spec.model_dump_json(), "utf-8")
    run_module("tuning.evaluate", path)
    return Evaluation.model_validate_json(result.read_bytes())
