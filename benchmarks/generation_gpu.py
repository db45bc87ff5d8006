"""The engine on a GPU beside plain `transformers.generate`: tokens per second, time to first token, mixed adapters.

    python -m benchmarks.generation_gpu [--size 8b] [--concurrent 1 32 128] [--adapters 0 1 4 16] [--json FILE]

A random Llama in bf16, prompts of 1,024 tokens, 128 tokens out, all requests at once. Plain generate takes them as one
batch, without adapters, in the same process on the same weights. Before that, a small model in float32 is held against
plain generate token by token, adapters mixed. Each result is written to FILE as it comes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.first_token import FirstToken
from benchmarks.phases import Phases
from benchmarks.random_llama import build_model, build_tokenizer, describe, merged, save_adapter
from core.settings import GenerationSettings
from core.types import AdapterRef, GenerationRequest, Message
from generation.engines.transformers_engine import TransformersEngine, choose_device


class Report:
    """Results, printed and written as they come."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> None:
        """One result."""
        self.rows.append(row)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()
        if self._path:
            self._path.write_text(json.dumps(self.rows, indent=1) + "\n", "utf-8")


def check(device: torch.device, work: Path, report: Report) -> None:
    """Mixed rows of a small float32 model against plain generate with each adapter merged into its weights."""
    model, tokenizer = build_model("small", torch.float32, device), build_tokenizer(4096)
    base = describe("small", model, work / "small")
    adapters = [None, *(save_adapter(model, base, work / f"small-{n}", n, rank=8 * n) for n in (1, 2))]
    alone = [model if adapter is None else merged(model, adapter) for adapter in adapters]
    prompts = [_prompt(number, 40 + 53 * number) for number in range(9)]
    wanted = [_plain(alone[n % 3], tokenizer, [prompt], 24)["ids"][0] for n, prompt in enumerate(prompts)]
    settings = GenerationSettings(decoder="paged", kv_cache_tokens=16384, context_tokens=2048, max_batch=16)
    engine = TransformersEngine(base, settings, model=model, tokenizer=tokenizer)
    try:
        handles = [engine.submit(_request(prompt, adapters[n % 3], 24)) for n, prompt in enumerate(prompts)]
        texts = [handle.result().text for handle in handles]
    finally:
        engine.close()
    same = sum(text == tokenizer.decode(ids) for text, ids in zip(texts, wanted, strict=True))
    report.add(what="check", same_as_generate=same, of=len(prompts))


def measure(options: argparse.Namespace, device: torch.device, work: Path, report: Report) -> None:
    """The table."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    began = perf_counter()
    model = build_model(options.size, dtype, device)
    tokenizer = build_tokenizer(model.config.vocab_size)
    base = describe(options.size, model, work / "base")
    adapters = [save_adapter(model, base, work / f"a{n}", n) for n in range(max(options.adapters))]
    _wait(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    weights_gb = sum(p.numel() * p.element_size() for p in model.parameters()) / 1e9
    report.add(what="setup", seconds=round(perf_counter() - began, 1), device=name, weights_gb=round(weights_gb, 2))
    prompts = [_prompt(number, options.prompt) for number in range(max(options.concurrent))]
    plain: dict[int, float] = {}
    _plain(model, tokenizer, prompts[:1], 4)
    for count in options.concurrent if options.plain else []:
        try:
            found = _plain(model, tokenizer, prompts[:count], options.new)
        except torch.OutOfMemoryError:
            report.add(what="generate", concurrent=count, error="out of memory")
            continue
        plain[count] = found["tokens_per_s"]
        report.add(what="generate", concurrent=count, **{k: v for k, v in found.items() if k != "ids"})
    if device.type == "cuda":
        torch.cuda.empty_cache()
    most = max(options.concurrent)
    settings = GenerationSettings(
        decoder="paged",
        max_batch=most,
        max_queue=2 * most,
        max_adapters=max(1, *options.adapters),
        context_tokens=max(256, options.prompt + options.new),
        kv_cache_tokens=most * (options.prompt + options.new + 64),
    )
    began = perf_counter()
    engine = TransformersEngine(base, settings, model=model, tokenizer=tokenizer)
    if options.most_piece:
        batch: Any = engine._batch
        batch._most_piece = options.most_piece
    try:
        engine.submit(_request(prompts[0], None, 4)).result()
        report.add(what="start", seconds=round(perf_counter() - began, 2))
        for kinds in options.adapters:
            chosen: list[AdapterRef | None] = [*adapters[:kinds]] if kinds else [None]
            loads = []
            for adapter in adapters[:kinds]:
                began = perf_counter()
                engine.ensure_adapter(adapter)
                loads.append(perf_counter() - began)
            for count in options.concurrent:
                if count < kinds:
                    continue
                _round(engine, [_prompt(n, 64) for n in range(count)], chosen, 48)  # records the steps of this mix
                rounds = [_round(engine, prompts[:count], chosen, options.new) for _ in range(options.rounds)]
                row = sorted(rounds, key=lambda row: row["tokens_per_s"])[len(rounds) // 2]
                speeds = [other["tokens_per_s"] for other in rounds]
                ratio = round(row["tokens_per_s"] / plain[count], 2) if count in plain else None
                report.add(what="engine", concurrent=count, adapters=kinds, over_generate=ratio, **row, rounds=speeds)
                if options.profile:  # a round of its own: the marks are not free
                    with Phases(engine, device) as phases:
                        _round(engine, prompts[:count], chosen, options.new)
                    report.add(what="phases", concurrent=count, adapters=kinds, **phases.summary())
            if loads:
                report.add(what="load", adapters=kinds, slowest_s=round(max(loads), 3), median_s=_median(loads))
        if options.kernels:
            _kernels(engine, prompts, adapters)
    finally:
        engine.close()


def _round(
    engine: TransformersEngine, prompts: Sequence[str], adapters: Sequence[AdapterRef | None], new: int
) -> dict[str, Any]:
    began = perf_counter()
    handles = [
        engine.submit(_request(prompt, adapters[number % len(adapters)], new)) for number, prompt in enumerate(prompts)
    ]
    tokens = sum(handle.result().completion_tokens for handle in handles)
    seconds = perf_counter() - began
    firsts = sorted(handle.first_token_at - began for handle in handles if handle.first_token_at is not None)
    # What the streams feel once all prompts are read: tokens after the last first token, which nobody interrupts.
    decode = (seconds - firsts[-1]) if len(firsts) > 1 else (seconds - firsts[0])
    return {
        "tokens_per_s": round(tokens / seconds, 1),
        "first_token_median_s": round(statistics.median(firsts), 4),
        "first_token_last_s": round(firsts[-1], 4),
        "after_last_first_s": round(decode, 3),
        "tokens": tokens,
    }


def _plain(model: Any, tokenizer: Any, prompts: Sequence[str], new: int) -> dict[str, Any]:
    """Bare generate on one batch of prompts of one length."""
    ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts])
    ids = ids.to(model.device)
    clock = FirstToken()
    _wait(model.device)
    began = perf_counter()
    with torch.inference_mode():
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, streamer=clock
        )
    _wait(model.device)
    seconds = perf_counter() - began
    made = output[:, ids.shape[1] :]
    return {
        "tokens_per_s": round(made.numel() / seconds, 1),
        "first_token_median_s": round(clock.times[1] - began, 4),
        "step_ms": round((clock.times[-1] - clock.times[1]) / max(1, len(clock.times) - 2) * 1000, 2),
        "ids": made.tolist(),
    }


def _kernels(engine: TransformersEngine, prompts: Sequence[str], adapters: Sequence[Any]) -> None:
    """Where the time of a full batch goes, by kernel."""
    from torch.profiler import ProfilerActivity, profile

    chosen = [*adapters] or [None]
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        _round(engine, prompts, chosen, 16)
    sys.stdout.write(found.key_averages().table(sort_by="cuda_time_total", row_limit=24, max_name_column_width=70))


def _prompt(number: int, tokens: int) -> str:
    """Text of so many bytes, which are so many tokens; each another."""
    text = f"{number} " + "The warehouse opens at eight and the office at nine; ask for the key at the gate. " * 40
    return (text * (1 + tokens // len(text)))[:tokens]


def _request(prompt: str, adapter: AdapterRef | None, new: int) -> GenerationRequest:
    return GenerationRequest((Message("user", prompt),), adapter, new)


def _median(values: Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default="8b", choices=("8b", "small"), help="shape of the model [8b]")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 32, 128], help="requests at once")
    parser.add_argument("--adapters", type=int, nargs="+", default=[0, 1, 4, 16], help="adapters mixed in one batch")
    parser.add_argument("--prompt", type=int, default=1024, help="prompt tokens [1024]")
    parser.add_argument("--new", type=int, default=128, help="tokens out [128]")
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds of each row; the middle one, or the better of two, is kept [1]"
    )
    parser.add_argument("--plain", type=int, default=1, help="0 leaves plain generate out")
    parser.add_argument("--most-piece", type=int, help="prompt tokens between two steps at most, for comparisons")
    parser.add_argument("--profile", action="store_true", help="also print, for each row, the seconds of each phase")
    parser.add_argument("--kernels", action="store_true", help="also print the device's time by kernel")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args(arguments)
    device, _ = choose_device("auto")
    report = Report(options.json)
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as work:
        check(device, Path(work), report)
        measure(options, device, Path(work), report)


if __name__ == "__main__":
    main(sys.argv[1:])
