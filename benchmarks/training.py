"""Training speed of our trainer beside TRL's defaults, and against the arithmetic rate of the device.

    python -m benchmarks.training small [--base FOLDER] [--rows N] [--seconds S] [--json FILE]
    python -m benchmarks.training large [--work FOLDER] [--tokens 8192] [--layers 32] [--json FILE]

`small`: one base (default: the product's) on rows like the starter's, LoRA on all linear layers. The reference is TRL's
SFTTrainer with its own defaults on the same texts (only the length limit is lifted, or it would cut what we train on).
On a CPU both take the same steps in the same order at the same learning rate, and the final losses are compared too.

`large`: an 8-billion-parameter Llama with random weights made here, rank 16 on all linear layers, rows that fill 2,048
tokens; tokens per second, and the share of the rate of a large bf16 product at 4 operations per parameter and token
(frozen weights have no gradient of their own). Each trainer is its own process, and its first steps are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.m3_checkpoint import words
from core.settings import load_settings
from generation.prompt import PromptPassage, render_grounded
from tuning.recipe import load_recipe
from tuning.spec import TrainSpec

_PACK = 2_048
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
    folder: Path, base: Path, rows: list[dict[str, Any]], overrides: dict[str, Any], **limits: Any
) -> dict[str, Any]:
    """`tuning.train` as a run starts it; tokens per second between its events."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    spec = TrainSpec(
        run_dir=folder, base_path=base, rows_path=path, recipe=load_recipe("starter", overrides),
        output_dir=folder / "adapter", seed=5,
    )  # fmt: skip
    (folder / "train.json").write_text(spec.model_dump_json(), "utf-8")
    return _follow([sys.executable, "-m", "tuning.train", str(folder / "train.json")], folder / "ours.err", **limits)


def trl_defaults(folder: Path, base: Path, rows: list[dict[str, Any]], rank: int, **limits: Any) -> dict[str, Any]:
    """TRL's trainer with its own defaults, as its documentation starts it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trl.jsonl"
    shaped = [
        {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": row["completion"]}]} for row in rows
    ]
    path.write_text("\n".join(json.dumps(row) for row in shaped), "utf-8")
    arguments = json.dumps({"base": str(base), "rows": str(path), "out": str(folder / "trl"), "rank": rank} | limits)
    return _follow([sys.executable, "-m", "benchmarks.training", "trl", arguments], folder / "trl.err")


def run_trl(order: dict[str, Any]) -> None:
    """The reference process: prints an event a step."""
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    class Teller(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_more: Any) -> None:
            if logs and "loss" in logs:
                event = {"event": "step", "step": state.global_step, "loss": logs["loss"], "tokens": logs["num_tokens"]}
                stream.write(json.dumps(event) + "\n")
                stream.flush()

    rank = order["rank"]
    config = {"max_length": None, "logging_steps": 1, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}
    trainer = SFTTrainer(
        model=order["base"],
        args=SFTConfig(output_dir=order["out"], **config, **order.get("arguments", {})),
        train_dataset=load_dataset("json", data_files=order["rows"], split="train"),
        peft_config=LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Teller()],
    )
    trainer.train()


def _follow(
    command: list[str], errors: Path, *, max_steps: int | None = None, seconds: float | None = None
) -> dict[str, Any]:
    """Read a trainer's events; it is stopped after so many steps or seconds of stepping."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(["", *sys.path[1:]]).lstrip(":")}
    environment["PYTHONPATH"] = f"{Path(__file__).resolve().parent.parent}{os.pathsep}{environment['PYTHONPATH']}"
    events: list[tuple[float, dict[str, Any]]] = []
    begun = time.perf_counter()
    with (
        errors.open("w") as log,
        subprocess.Popen(  # noqa: S603 - our own module
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "error":
                return {"error": event["code"], "detail": event["detail"]}
            if event["event"] != "step" or not event.get("tokens"):
                continue
            events.append((time.perf_counter(), event))
            full = max_steps is not None and len(events) >= max_steps
            late = seconds is not None and len(events) > _SETTLE_STEPS and events[-1][0] - events[0][0] > seconds
            if full or late:
                process.kill()
                break
        process.wait()
    if len(events) < _SETTLE_STEPS + 2:
        return {"error": f"{len(events)} steps", "detail": errors.read_text("utf-8", errors="replace")[-600:]}
    settled = events[_SETTLE_STEPS:]
    tokens = settled[-1][1]["tokens"] - settled[0][1]["tokens"]
    return {
        "tokens_per_s": round(tokens / (settled[-1][0] - settled[0][0]), 1),
        "steps": events[-1][1]["step"],
        "loss": round(sum(event["loss"] for _, event in events[-4:]) / 4, 4),
        "start_s": round(settled[0][0] - begun, 1),
    }


def small(base: Path, rows: int, seconds: float) -> dict[str, Any]:
    """TRL's defaults and ours on one base."""
    import torch

    on_gpu = torch.cuda.is_available()
    # Three passages as the starter has them; on a CPU one short passage, as in a house style trained there.
    given = grounded_rows(rows, passages=3 if on_gpu else 1, words_each=(40, 180) if on_gpu else (10, 30))
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as name:
        folder = Path(name)
        rank = 16
        common = {"lora.rank": rank, "lora.alpha": rank, "lora.rank_stabilised": False, "cadence.log_steps": 1}
        if on_gpu:
            overrides: dict[str, Any] = common | {
                "batch.epochs": 1000,
                "batch.max_steps": 100_000,
                "cadence.checkpoint_steps": 100_000,
            }
            limits: dict[str, Any] = {"seconds": seconds}
            reference: dict[str, Any] = {"arguments": {"num_train_epochs": 1000}, "seconds": seconds}
        else:
            steps = max(_SETTLE_STEPS + 4, rows // 8)
            same = {"batch.rows": 8, "batch.group_by_length": False, "optimiser.learning_rate": 2e-4}
            plain = {"optimiser.schedule": "linear", "optimiser.warmup_share": 0.0, "optimiser.beta2": 0.999}
            overrides = common | same | plain | {"batch.max_steps": steps, "batch.max_seconds": None}
            overrides |= {"batch.tokens": None, "cadence.checkpoint_steps": 100_000}
            limits, reference = {}, {"arguments": {"max_steps": steps, "seed": 5, "learning_rate": 2e-4}}
        theirs = trl_defaults(folder / "reference", base, given, rank, **reference)
        own = ours(folder / "ours", base, given, overrides, **limits)
    figures = {"device": "cuda" if on_gpu else "cpu", "trl_defaults": theirs, "ours": own}
    if "tokens_per_s" in theirs and "tokens_per_s" in own:
        figures["times"] = round(own["tokens_per_s"] / theirs["tokens_per_s"], 2)
        figures["loss_ratio"] = round(own["loss"] / theirs["loss"], 4)
    return figures


def large(work: Path | None, tokenizer_folder: Path, tokens: int, layers: int) -> dict[str, Any]:
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
                "batch.epochs": 100, "batch.max_steps": 40, "batch.max_seconds": None, "batch.max_tokens": _PACK,
                "cadence.log_steps": 2, "cadence.checkpoint_steps": 1_000,
            }  # fmt: skip
            found = ours(folder / f"ours-{size}", folder / "base", rows, overrides, max_steps=16)
            figures[f"ours_{size}"] = found
            if "tokens_per_s" in found:
                found["share"] = round(4 * parameters * found["tokens_per_s"] / rate, 3)
                break
    return figures


def main() -> None:
    """Command line."""
    if sys.argv[1:2] == ["trl"]:
        run_trl(json.loads(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", choices=("small", "large"))
    parser.add_argument("--base", type=Path, help="folder of a base (large: of the tokenizer) [default: the product's]")
    parser.add_argument("--work", type=Path, help="where the large base is written; a folder in memory is quickest")
    parser.add_argument("--rows", type=int, default=80, help="rows of the small case")
    parser.add_argument("--seconds", type=float, default=25.0, help="how long each trainer steps, on a GPU")
    parser.add_argument("--tokens", type=int, default=8_192, help="tokens of a part in the large case")
    parser.add_argument("--layers", type=int, default=32, help="layers in the large case")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    if arguments.base is None:
        from generation.build import build_base

        arguments.base = build_base(load_settings()).path
    if arguments.case == "small":
        figures = small(arguments.base.resolve(), arguments.rows, arguments.seconds)
    else:
        figures = large(arguments.work, arguments.base.resolve(), arguments.tokens, arguments.layers)
    print(json.dumps(figures, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
