"""Training speed of our trainer beside TRL's defaults, and against the arithmetic rate of the device.

    python -m benchmarks.training small [--base FOLDER] [--steps N] [--seconds S] [--compile] [--json FILE]
    python -m benchmarks.training large [--work FOLDER] [--tokens 8192] [--layers 32] [--json FILE]

`small`: one base (default: the product's; a folder with configuration and tokenizer only gets random weights) on rows
like the starter's, LoRA rank 16 on all linear layers. The reference is TRL's SFTTrainer with its own defaults on the
same tokens. Both take the same steps on the same rows in the same order at the same learning rate: the first losses are
those of the base, equal where both were given the same rows, and the last ones that both reached are compared too. On a
GPU ours also trains in parts of 32,000 tokens, or with `--compile` of 72,000 in fused layers, as the starter's recipe
does. Each side prints its figures when it ends and is ended after `--seconds`, its start included, so that the whole is
under four minutes on two cores (busy ones get through fewer steps) and on a GPU:

    python -m benchmarks.training small --base FOLDER --json small.json     FOLDER: config.json, tokenizer files

`large`: an 8-billion-parameter Llama with random weights made here, rank 16 on all linear layers, rows that fill 2,048
tokens; tokens per second, and the share of the rate of a large bf16 product at 4 operations per parameter and token
(frozen weights have no gradient of their own). Each trainer is its own process, and its first steps are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.m3_checkpoint import words
from benchmarks.trainer_process import Limits, follow, python
from core.settings import load_settings
from generation.prompt import PromptPassage, render_grounded
from tuning.recipe import load_recipe
from tuning.rows import encode_rows
from tuning.spec import TrainRow, TrainSpec

_PACK = 2_048
_RANK = 16
_SEED = 5
_TRL_ROWS = 8
"""Rows of a step: TRL's default."""
_SETTLE_STEPS = 4
"""Steps that warm up: compilation, allocation, the first batches of a loader."""
_LLAMA_8B = {
    "vocab_size": 128_256, "hidden_size": 4_096, "intermediate_size": 14_336, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 8_192, "rope_theta": 500_000.0, "tie_word_embeddings": False,
}  # fmt: skip


def matmul_rate() -> float:
    """Operations per second of a large bf16 product on the GPU: the best of several."""
    import torch

    size = 8_192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    event: Any = torch.cuda.Event  # typed in some builds of torch and untyped in others
    for _ in range(12):
        start, end = (event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(10):
            a @ b
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end) / 1_000 / 10)
    return 2 * size**3 / best


def grounded_rows(count: int, *, passages: int, words_each: tuple[int, int], seed: int = 5) -> list[dict[str, Any]]:
    """Rows like the starter's: passages, a question, a short answer with a mark."""
    generator = random.Random(seed)
    pool = words(50_000, seed)

    def text(least: int, most: int) -> str:
        at = generator.randrange(len(pool) - most)
        return " ".join(pool[at : at + generator.randint(least, most)])

    rows = []
    for _ in range(count):
        shown = [PromptPassage(text(*words_each) + ".") for _ in range(passages)]
        prompt = [{"role": turn.role, "content": turn.content} for turn in render_grounded(text(6, 14) + "?", shown)]
        rows.append({"prompt": prompt, "completion": f"{text(4, 24)} [{generator.randint(1, passages)}]."})
    return rows


def packed_rows(count: int, count_tokens: Callable[[str], int], seed: int = 5) -> list[dict[str, Any]]:
    """Rows that fill a pack, nearly all of it with loss."""
    generator = random.Random(seed)
    pool = words(200_000, seed)
    per_word = count_tokens(" ".join(pool[:2_000])) / 2_000
    rows = []
    for _ in range(count):
        at = generator.randrange(len(pool) - 4_000)
        kept = pool[at : at + round((_PACK - 64) / per_word)]
        while count_tokens(" ".join(kept)) > _PACK - 40:
            kept = kept[:-8]
        rows.append({"prompt": [{"role": "user", "content": "Go on."}], "completion": " ".join(kept)})
    return rows


def make_llama(folder: Path, tokenizer_folder: Path, layers: int, sizes: Mapping[str, Any] = _LLAMA_8B) -> int:
    """Random weights and a tokenizer; number of parameters."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    config = LlamaConfig(
        num_hidden_layers=layers, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, **sizes,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def ours(
    folder: Path, base: Path, rows: list[dict[str, Any]], overrides: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """`tuning.train` as a run starts it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    spec = TrainSpec(
        run_dir=folder, base_path=base, rows_path=path, recipe=load_recipe("starter", overrides),
        output_dir=folder / "adapter", seed=_SEED,
    )  # fmt: skip
    (folder / "train.json").write_text(spec.model_dump_json(), "utf-8")
    return follow(python("tuning.train", str(folder / "train.json")), folder / "err", limits)


def trl_defaults(
    folder: Path, base: Path, rows: list[dict[str, Any]], arguments: dict[str, Any], limits: Limits
) -> dict[str, Any]:
    """TRL's trainer with its own defaults."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    encoded = encode_rows(
        AutoTokenizer.from_pretrained(base), [TrainRow.model_validate(row) for row in rows], max_tokens=8_192
    )
    # Token by token what ours trains on: its own rendering would supervise the line end behind every answer too.
    shaped = [{"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()} for row in encoded]
    path.write_text("\n".join(json.dumps(row) for row in shaped), "utf-8")
    order = {"base": str(base), "rows": str(path), "out": str(folder), "rank": _RANK, "arguments": arguments}
    (folder / "order.json").write_text(json.dumps(order), "utf-8")
    return follow(python("benchmarks.training_reference", str(folder / "order.json")), folder / "err", limits)


def with_weights(base: Path, folder: Path) -> Path:
    """The base; where it brings configuration and tokenizer only, a copy with random weights of that architecture."""
    if any(base.glob("*.safetensors")):
        return base
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(_SEED)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base), dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def small(base: Path, steps: int, seconds: float, *, compiled: bool) -> dict[str, Any]:
    """TRL's defaults and ours on one base: the same rows in the same order; on a GPU also in parts of our own size."""
    import torch

    on_gpu = torch.cuda.is_available()
    every, warm_up = (5, 10) if on_gpu else (1, 1)
    # Three passages as the starter has them; on a CPU one short passage, as in a house style trained there.
    rows = grounded_rows(steps * _TRL_ROWS, passages=3 if on_gpu else 1, words_each=(40, 180) if on_gpu else (10, 30))
    # The schedule and the optimiser that TRL has by default, at a rate at which so few steps show in the loss.
    rate = 2e-4
    common = {
        "lora.rank": _RANK, "lora.alpha": _RANK, "lora.rank_stabilised": False, "precision": "auto",
        "cadence.log_steps": every, "cadence.checkpoint_steps": 100_000, "batch.max_seconds": None,
        "batch.epochs": 10_000, "optimiser.learning_rate": rate, "optimiser.schedule": "linear",
        "optimiser.warmup_share": 0.0, "optimiser.beta2": 0.999, "compile_layers": False,
    }  # fmt: skip
    same = {"batch.rows": _TRL_ROWS, "batch.tokens": None, "batch.group_by_length": False, "batch.max_steps": steps}
    arguments = {
        "max_steps": steps,
        "logging_steps": every,
        "logging_first_step": True,
        "seed": _SEED,
        "learning_rate": rate,
        "use_cpu": not on_gpu,
    }
    limits = Limits(seconds, warm_up)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if on_gpu else f"cpu, {os.cpu_count()} cores"}
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as name:
        folder = Path(name)
        base = with_weights(base, folder / "base")
        sides: dict[str, Callable[[], dict[str, Any]]] = {
            "trl_defaults": lambda: trl_defaults(folder / "trl", base, rows, arguments, limits),
            "ours": lambda: ours(folder / "ours", base, rows, common | same, limits),
        }
        if on_gpu:
            own = {
                "batch.tokens": 72_000 if compiled else 32_000,
                "batch.max_steps": 100_000,
                "compile_layers": compiled,
            }
            sides["ours_by_tokens"] = lambda: ours(folder / "tokens", base, rows * 8, common | own, Limits(seconds, 10))
        for side, measure in sides.items():
            figures[side] = measure()
            print(json.dumps({side: figures[side]}), flush=True)
    reference = figures["trl_defaults"]
    for side in ("ours", "ours_by_tokens"):
        found = figures.get(side, {})
        if "tokens_per_s" in found and "tokens_per_s" in reference:
            figures[f"{side}_times"] = round(found["tokens_per_s"] / reference["tokens_per_s"], 2)
            figures[f"{side}_times_per_cpu_s"] = round(found["tokens_per_cpu_s"] / reference["tokens_per_cpu_s"], 2)
    return figures | compare_losses(figures["ours"].get("losses", {}), reference.get("losses", {}))


def compare_losses(ours: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any]:
    """Losses of the steps that both sides reached: of the first, and the mean of the last three.

    Both have one schedule, so that a side which was cut short is compared at the step it reached.
    """
    common = sorted(ours.keys() & reference.keys())
    if not common:
        return {}
    last = common[-3:]
    final = [sum(losses[step] for step in last) / len(last) for losses in (ours, reference)]
    return {
        "first_loss_ratio": round(ours[common[0]] / reference[common[0]], 4),
        "final_loss": {"ours": round(final[0], 4), "trl_defaults": round(final[1], 4), "steps": last},
        "final_loss_ratio": round(final[0] / final[1], 4),
    }


def large(work: Path | None, tokenizer_folder: Path, tokens: int, layers: int, seconds: float) -> dict[str, Any]:
    """The 8-billion-parameter architecture through our trainer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-", dir=work) as name:
        folder = Path(name)
        rate = matmul_rate()
        parameters = make_llama(folder / "base", tokenizer_folder, layers)
        rows = packed_rows(64, lambda text: len(tokenizer.encode(text).ids))
        figures: dict[str, Any] = {"parameters": parameters, "matmul_tflops": round(rate / 1e12, 1)}
        for size in (tokens, tokens // 2):
            overrides = {
                "lora.rank": 16, "lora.alpha": 16, "lora.targets": "all-linear", "batch.tokens": size,
                "batch.epochs": 100, "batch.max_steps": 16, "batch.max_seconds": None, "batch.max_tokens": _PACK,
                "cadence.log_steps": 2, "cadence.checkpoint_steps": 1_000,
            }  # fmt: skip
            found = ours(folder / f"ours-{size}", folder / "base", rows, overrides, Limits(seconds, _SETTLE_STEPS))
            figures[f"ours_{size}"] = found
            if "tokens_per_s" in found:
                found["share"] = round(4 * parameters * found["tokens_per_s"] / rate, 3)
                break
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("small", "large"))
    parser.add_argument("--base", type=Path, help="folder of a base (large: of the tokenizer) [default: the product's]")
    parser.add_argument("--work", type=Path, help="where the large base is written; a folder in memory is quickest")
    parser.add_argument("--steps", type=int, help="optimiser steps of the small case [default: 6; on a GPU 60]")
    parser.add_argument("--seconds", type=float, help="of each side, its start included [small: 110; on a GPU 75]")
    parser.add_argument("--compile", action="store_true", help="small: fused kernels in our own parts")
    parser.add_argument("--tokens", type=int, default=8_192, help="tokens of a part in the large case")
    parser.add_argument("--layers", type=int, default=32, help="layers in the large case")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.base is None:
        from generation.build import build_base

        arguments.base = build_base(load_settings()).path
    base = arguments.base.resolve()
    if arguments.case == "small":
        import torch

        steps, seconds = (60, 75.0) if torch.cuda.is_available() else (6, 110.0)
        figures = small(base, arguments.steps or steps, arguments.seconds or seconds, compiled=arguments.compile)
    else:
        figures = large(arguments.work, base, arguments.tokens, arguments.layers, arguments.seconds or 240.0)
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
