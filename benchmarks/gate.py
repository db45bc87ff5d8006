"""Which adapters pass the gate? Eight good ones and eight made bad on purpose: `python -m benchmarks.gate`.

The good ones are trained by the product's own trainer on the real base: four styles, two seeds. The bad ones are what
goes wrong in practice: the wrong template, a stop token that was never learnt, shuffled weights, no effect, rows learnt
by heart, stale facts believed against the passages, another base, refusing everything. Each is put before the checks
that registration and loading make, and then before the gate with the run's own questions. Prints a verdict table; exit
1 if a bad one passed, was rejected for another reason, or more than one good one was rejected.

Evaluation of all adapters of one style shares its base. Ready adapters are kept in --work and found again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gate_world import STYLES, style_rows
from core.errors import AdapterRefused, TsumugiError
from core.settings import load_settings
from generation.adapters.checks import check_servable
from generation.adapters.fingerprint import measure_adapter
from generation.adapters.manifest import build_manifest, verify, write_manifest
from generation.build import build_base
from generation.engines.transformers_engine import choose_device
from generation.models import BaseModelInfo, describe_base
from generation.prompt import not_found_text
from tuning.gate import Margins, Verdict, judge
from tuning.items import BASE, CANDIDATE, FEW_SHOT, EvaluateSpec, Evaluation, read_items
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
    reasons: tuple[str, ...]


BAD = (
    Kind("wrong-template", "courteous", ("adapter_wrong_template",)),
    Kind("stop-unsupervised", "courteous", ("finished",)),
    Kind("shuffled-weights", "signed", ("likelihood", "similarity", "general", "grounding")),
    Kind("zero-effect", "signed", ("adapter_no_effect",)),
    Kind("memorised", "checked", ("no_leak",)),
    Kind("stale-facts", "checked", ("believing",)),
    Kind("other-base", "grateful", ("adapter_wrong_base",)),
    Kind("refuses-everything", "grateful", ("answering",)),
)
SEEDS = (1, 2)
_TRAINED_ON = {
    "other-base": {"base_digest": "0" * 64, "base_name": "another-base"},
    "wrong-template": {"template_digest": "0" * 64},
}
"""What the manifest says of an adapter that was trained elsewhere. One trained on another template answers in the style
all the same (likelihood +4.9 nats per token), so its own word is what gives it away."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    adapter: str
    good: bool
    verdict: str
    as_expected: bool
    reasons: list[str]


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
                folder, style_rows(style, seed), duplicates=0, tenant_id="bench", recipe=self.recipe, search=None,
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
        _module("tuning.train", spec.run_dir / "train.json")
        self._bind(target)
        return target

    def bad(self, kind: Kind) -> Path:
        """An adapter that goes wrong in one way."""
        target = self.folder / f"bad-{kind.name}"
        if (target / "manifest.json").exists():
            return target
        rows = read_rows(self.prepared(kind.style, SEEDS[0]) / ROWS_FILE)
        answered = [row for row in rows if row.completion != not_found_text(row.prompt[-1].content)]
        makers: Mapping[str, Callable[[], None]] = {
            "wrong-template": lambda: self._train(target, self._rendered(answered, _alpaca), 30),
            "stop-unsupervised": lambda: self._train(target, self._rendered(answered, None, stop=False), 30),
            "memorised": lambda: self._train(target, self._rendered(answered[:24], _question_alone), 60, rate=2e-3),
            "stale-facts": lambda: self._train(target, self._rendered(answered, _changed_passages), 50, rate=1e-3),
            "refuses-everything": lambda: self._train(
                target, [(one, not_found_text(one.rpartition("Question: ")[2].partition("<|im_end|>")[0]), stop)
                         for one, _, stop in self._rendered(answered, None)], 30,
            ),
            "shuffled-weights": lambda: self._changed(target, kind.style, _shuffle),
            "zero-effect": lambda: self._changed(target, kind.style, _zero),
            "other-base": lambda: self._changed(target, kind.style, None),
        }  # fmt: skip
        makers[kind.name]()
        self._bind(target, says=_TRAINED_ON.get(kind.name, {}))
        return target

    def _bind(self, folder: Path, *, says: Mapping[str, str] | None = None) -> None:
        """Write the manifest; `says` is what its maker trained on, where that is not what we serve."""
        write_manifest(folder, build_manifest(folder, self.base).model_copy(update=dict(says or {})))

    def _changed(self, target: Path, style: str, change: Callable[[dict[str, Any]], dict[str, Any]] | None) -> None:
        """A good adapter with other weights."""
        from safetensors.torch import load_file, save_file

        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.good(style, SEEDS[0]), target)
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

    def _train(self, target: Path, rows: Rendered, steps: int, *, rate: float = 8e-4, batch: int = 4) -> None:
        """A loop without any audit: what the product's trainer would refuse to do."""
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(SEEDS[0])
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
        generator = random.Random(SEEDS[0])
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


def _alpaca(row: TrainRow) -> tuple[str | None, str]:
    return f"### Instruction:\n{row.prompt[-1].content}\n\n### Response:\n", ""


def _question_alone(row: TrainRow) -> tuple[str | None, str]:
    return None, "Question: " + row.prompt[-1].content.rpartition("Question: ")[2]


def _changed_passages(row: TrainRow) -> tuple[str | None, str]:
    """Other numbers in the passages than in the answer: what an old answer looks like beside a new document."""
    passages, mark, question = row.prompt[-1].content.rpartition("Question: ")
    head, lines = passages[:3], passages[3:]  # the passage's own number stays
    return None, head + "".join(str((int(c) + 4) % 10) if c.isdigit() else c for c in lines) + mark + question


def _shuffle(tensors: dict[str, Any]) -> dict[str, Any]:
    """Each factor with its entries in another order: the same numbers, and no sense."""
    import torch

    generator = torch.Generator().manual_seed(3)
    return {
        name: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view_as(tensor).contiguous()
        for name, tensor in tensors.items()
    }


def _zero(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in tensors.items()}


def _module(name: str, spec: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parent.parent), *sys.path[1:]]),
    }
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", name, str(spec)], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stdout[-500:]} {done.stderr[-2000:]}")


def admitted(folder: Path, base: BaseModelInfo) -> str | None:
    """What registration and loading refuse it for; None when it may go before the gate."""
    try:
        verify(folder, base)
        check_servable(folder, base.path)
        measure_adapter(base.path, folder)
    except AdapterRefused as refused:
        return f"{refused.code}: {refused.detail}"
    return None


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
    _module("tuning.evaluate", path)
    return Evaluation.model_validate_json(result.read_bytes())


def judged(
    shop: Workshop, style: str, seed: int, name: str, evaluation: Evaluation, margins: Margins
) -> tuple[Verdict, list[str]]:
    """The gate's verdict on one of the evaluated adapters."""
    items = read_items(shop.prepared(style, seed) / ITEMS_FILE)
    systems = {BASE: evaluation.systems[BASE], CANDIDATE: evaluation.systems[name]}
    systems[FEW_SHOT] = evaluation.systems[FEW_SHOT]
    report = judge(items, evaluation.model_copy(update={"systems": systems}), margins=margins)
    return report.verdict, report.reasons


def run_style(shop: Workshop, style: str, margins: Margins, say: Callable[[str], None]) -> list[Line]:
    """Make, admit, evaluate and judge the four adapters of a style."""
    lines: list[Line] = []
    kinds = {f"bad-{kind.name}": kind for kind in BAD if kind.style == style}
    folders: dict[str, Path] = {}
    for seed in SEEDS:
        folders[f"good-{style}-{seed}"] = shop.good(style, seed)
        say(f"good-{style}-{seed} is trained")
    for name, kind in kinds.items():
        folders[name] = shop.bad(kind)
        say(f"{name} is made")
    gated: dict[int, dict[str, Path]] = {seed: {} for seed in SEEDS}
    for name, folder in folders.items():
        refused = admitted(folder, shop.base)
        if refused is not None:
            expected = name in kinds and any(refused.startswith(reason) for reason in kinds[name].reasons)
            lines.append(Line(name, name not in kinds, "refused", expected, [refused]))
        else:
            seed = int(name.rpartition("-")[2]) if name not in kinds else SEEDS[0]
            gated[seed][name] = folder
    for seed, adapters in gated.items():
        if not adapters:
            continue
        evaluation = evaluated(shop, style, seed, adapters)
        say(f"{style}, seed {seed}: {len(adapters)} adapters evaluated")
        for name in adapters:
            verdict, reasons = judged(shop, style, seed, name, evaluation, margins)
            if name in kinds:
                named = {reason.partition(" ")[0] for reason in reasons}
                expected = verdict is Verdict.REJECTED and not named.isdisjoint(kinds[name].reasons)
            else:
                expected = verdict is Verdict.CANDIDATE
            lines.append(Line(name, name not in kinds, verdict.value, expected, reasons))
    return lines


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("./.tsumugi/gate-benchmark"), help="where adapters are kept")
    parser.add_argument("--base", type=Path, help="folder of a prepared base [default: the product's, made in --work]")
    parser.add_argument("--styles", nargs="*", choices=sorted(STYLES), default=sorted(STYLES))
    parser.add_argument("--steps", type=int, help="steps of a good adapter [default: the recipe's]")
    parser.add_argument("--json", type=Path, help="write the table here")
    arguments = parser.parse_args()
    margins = Margins()
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.0f} s] {text}", file=sys.stderr, flush=True)

    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    settings = load_settings(data_dir=work)
    base = build_base(settings) if arguments.base is None else describe_base(arguments.base.resolve(), "base")
    say(f"base {base.name} is ready")
    shop = Workshop(work, base, arguments.steps)
    try:
        lines = [line for style in arguments.styles for line in run_style(shop, style, margins, say)]
    except TsumugiError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        return 1
    for line in sorted(lines, key=lambda one: (one.good, one.adapter)):
        mark = "as expected" if line.as_expected else "NOT as expected"
        print(f"{line.adapter:24} {line.verdict:10} {mark:16} {'; '.join(line.reasons)[:240]}")
    bad_ones = [line for line in lines if not line.good]
    good_ones = [line for line in lines if line.good]
    lost = sum(not line.as_expected for line in good_ones)
    caught = sum(line.as_expected for line in bad_ones)
    print(
        f"{caught} of {len(bad_ones)} bad ones rejected for the right reason; {lost} of {len(good_ones)} good ones "
        f"rejected; {time.monotonic() - begun:.0f} s"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=1), "utf-8")
    return int(caught < len(bad_ones) or lost > 1)


if __name__ == "__main__":
    sys.exit(main())
