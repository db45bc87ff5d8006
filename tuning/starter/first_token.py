"""Shifts how readily the starter refuses, after training, by a constant on the first token's logit.

    python -m tuning.starter.first_token --adapter FOLDER --candidates FOLDER --english X --japanese Y --out FOLDER

Whether an answer is a refusal is decided by its first token, and training sets that readiness by the share of refused
rows, which can only be guessed. Here it is corrected in place by what was measured on held-out questions. What the last
layer's `down_proj` puts out reaches nothing but the logits of its own position; so its least used direction is given
up for one that sees the first position of an answer, and that decision moves while no other does.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from core.types import Language
from generation.prompt import NOT_FOUND
from tuning.spec import TrainRow
from tuning.starter.rendering import Mixture, render_pass
from tuning.starter.sources import read_candidates
from tuning.template import TrainingTemplate

_RIDGE = 1e-3
_DETECTOR_RIDGE = 0.1
"""Relative to the mean of the diagonal. On unseen prompts the detector then reads 0.98 +- 0.14 and 0.00 +- 0.09."""


@dataclass(frozen=True, slots=True)
class Positions:
    """What the last layer saw at answer positions of sample prompts, row by row.

    inputs: (n, intermediate) what `down_proj` is fed. hidden: (n, hidden) the stream after the layer. first: (n,) bool,
    whether the position predicts the first token of the answer.
    """

    inputs: torch.Tensor
    hidden: torch.Tensor
    first: torch.Tensor


def shift_first_token(
    factors: Mapping[str, torch.Tensor],
    scale: float,
    positions: Positions,
    model: Any,
    shifts: Mapping[int, float],
) -> dict[str, torch.Tensor]:
    """New A and B of the last `down_proj`, float32: at first positions the logits of the tokens in `shifts` move.

    factors: 'A' (rank, intermediate) and 'B' (hidden, rank). scale: what PEFT multiplies B A by. model: the merged
    model, for its final norm and unembedding. The smallest singular value of B A goes to make room in the rank.
    """
    detector = fit_detector(positions)
    wanted = _hidden_change(positions.hidden[positions.first].float(), model, shifts) / scale
    left, values, right = torch.linalg.svd(factors["B"].float() @ factors["A"].float(), full_matrices=False)
    kept = len(factors["A"]) - 1
    root = values[:kept].sqrt()
    balance = (wanted.norm() / detector.norm()).sqrt()  # factors of like size lose least when rounded to bfloat16
    return {
        "A": torch.cat([root[:, None] * right[:kept], (detector * balance)[None]]),
        "B": torch.cat([left[:, :kept] * root, (wanted / balance)[:, None]], dim=1),
    }


def fit_detector(positions: Positions) -> torch.Tensor:
    """(intermediate,) weights whose product with `inputs` is near 1 at first positions and near 0 elsewhere.

    Ridge regression without intercept, both kinds of position weighing the same, in its dual form: there are fewer
    positions than inputs.
    """
    target = positions.first.double()
    weight = torch.where(target > 0, 1 / target.sum(), 1 / (1 - target).sum().clamp(min=1)).sqrt()[:, None]
    rows, wanted = positions.inputs.double() * weight, target[:, None] * weight
    gram = rows @ rows.T
    gram += torch.eye(len(gram), dtype=gram.dtype) * _DETECTOR_RIDGE * gram.diagonal().mean()
    detector: torch.Tensor = (rows.T @ torch.linalg.solve(gram, wanted))[:, 0].float()
    return detector


def _hidden_change(hidden: torch.Tensor, model: Any, shifts: Mapping[int, float]) -> torch.Tensor:
    """(hidden,) what to add before the final norm so that the wanted logits move, and others as little as may be."""
    unembedding = model.lm_head.weight.detach().double()
    target = torch.zeros(len(unembedding), dtype=torch.float64)
    for token, shift in shifts.items():
        target[token] = shift
    gram = unembedding.T @ unembedding
    # The few wanted tokens would drown among 49,000 that must not move: they weigh as much as all others together.
    rows = unembedding[list(shifts)]
    heavy = gram.diagonal().mean() / rows.square().sum(1).mean()
    gram += heavy * rows.T @ rows + torch.eye(len(gram), dtype=gram.dtype) * _RIDGE * gram.diagonal().mean()
    direction = torch.linalg.solve(gram, unembedding.T @ target + heavy * rows.T @ target[list(shifts)])
    moved = rows @ direction
    direction *= float((moved @ target[list(shifts)]) / (moved @ moved))  # undo the ridge's shrinkage
    norm = model.model.norm
    rms = hidden.double().square().mean(1).add(norm.variance_epsilon).sqrt().mean()
    change: torch.Tensor = (direction * rms / norm.weight.detach().double()).float()
    return change


def collect_positions(model: Any, tokenizer: Any, rows: Sequence[TrainRow]) -> Positions:
    """Run rows through the merged model, a batch of one each, and keep what the last layer sees from the answer on."""
    template = TrainingTemplate(tokenizer)
    last = model.model.layers[-1]
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        last.mlp.down_proj.register_forward_hook(lambda _m, given, _o: seen.__setitem__("inputs", given[0][0])),
        model.model.norm.register_forward_pre_hook(lambda _m, given: seen.__setitem__("hidden", given[0][0])),
    ]
    kept: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    try:
        for row in rows:
            prompt = tokenizer(template.prompt_text(row.prompt), add_special_tokens=False)["input_ids"]
            completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                model(torch.tensor([[*prompt, *completion]]), logits_to_keep=1)
            first = torch.zeros(len(completion) + 1, dtype=torch.bool)
            first[0] = True
            kept.append((seen["inputs"][len(prompt) - 1 :].float(), seen["hidden"][len(prompt) - 1 :].float(), first))
    finally:
        for hook in hooks:
            hook.remove()
    inputs, hidden, firsts = zip(*kept, strict=True)
    return Positions(torch.cat(inputs).clone(), torch.cat(hidden).clone(), torch.cat(firsts))


def main() -> None:
    """Command line; see the module."""
    from peft import PeftModel
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from generation.models import prepare_base

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True, help="trained adapter, read")
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--english", type=float, required=True, help="shift of the English refusal's first token")
    parser.add_argument("--japanese", type=float, required=True, help="the same for the Japanese one")
    parser.add_argument("--rows", type=int, default=24, help="sample rows of each language")
    parser.add_argument("--out", type=Path, required=True, help="folder whose adapter_model.safetensors is written")
    arguments = parser.parse_args()
    samples: list[TrainRow] = []
    for name in ("english", "jsquad"):
        [(corpus, ranked)] = read_candidates(arguments.candidates / f"train-{name}.xz")
        rows = list(render_pass(corpus, ranked, Mixture(refused=0.4), Random(5), share=0.1))
        samples += rows[: arguments.rows]
    with tempfile.TemporaryDirectory() as models:
        path = prepare_base(Path(models), None).path
        tokenizer = AutoTokenizer.from_pretrained(path)
        adapted = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), arguments.adapter
        )
        config = adapted.peft_config["default"]
        merged = adapted.merge_and_unload().to(torch.bfloat16)
        positions = collect_positions(merged, tokenizer, samples)
    file = arguments.adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    layer = f"base_model.model.model.layers.{merged.config.num_hidden_layers - 1}.mlp.down_proj.lora_"
    factors = {side: tensors[f"{layer}{side}.weight"] for side in "AB"}
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    first = {lang: tokenizer(text, add_special_tokens=False)["input_ids"][0] for lang, text in NOT_FOUND.items()}
    shifts = {first[Language.ENGLISH]: arguments.english, first[Language.JAPANESE]: arguments.japanese}
    for side, value in shift_first_token(factors, scale, positions, merged, shifts).items():
        tensors[f"{layer}{side}.weight"] = value.to(torch.bfloat16).contiguous()
    arguments.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, arguments.out / file.name, metadata={"format": "pt"})
    if arguments.out.resolve() != arguments.adapter.resolve():
        shutil.copyfile(arguments.adapter / "adapter_config.json", arguments.out / "adapter_config.json")


if __name__ == "__main__":
    main()
