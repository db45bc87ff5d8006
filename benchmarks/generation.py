"""The engine against bare `transformers.generate`: time to first token, tokens per second, the price of adapters.

    python -m benchmarks.generation [--data FOLDER] [--limit ROUNDS] [--json FILE]

Both sides run the same weights, dtype, threads and prompts (a question over three passages) in alternating rounds of
one process, so that a busy machine slows both; the medians are compared. Bare generate answers one request after the
other, as it is called without an engine around it. `--data` keeps the prepared model between runs.
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
from core.settings import GenerationSettings
from core.types import AdapterRef, GenerationRequest, Message
from generation.adapters.manifest import build_manifest, write_manifest
from generation.build import starter_folder
from generation.engines.transformers_engine import TransformersEngine, choose_device
from generation.models import BaseModelInfo, prepare_base
from generation.prompt import PromptPassage, render_grounded

CONCURRENT = (1, 4, 8)
MAX_TOKENS = 32
PASSAGES = (
    "The warehouse in Kawasaki opens at 8:30 on weekdays and at 10:00 on Saturdays. Deliveries need a slot, which the "
    "portal gives out a week ahead; lorries without one wait until a gate is free, at most three hours.",
    "返品は到着後14日以内に受け付けます。開封済みの消耗品は対象外です。送料は不良品の場合に限り当社が負担します。"
    "返金は検品後5営業日以内に、お支払いいただいた方法で行います。",
    "Support answers within four working hours. Premium contracts add a telephone line that is open day and night, and "
    "a named engineer. The contract runs for a year and renews itself unless it is ended a month before.",
)
_QUESTIONS = (
    "When does the warehouse open on Saturdays?",
    "返品の期限はいつまでですか。",
    "How long may a lorry wait without a slot?",
    "What does a premium contract add?",
    "返金はいつ行われますか。",
    "When is a contract ended?",
    "Who pays the postage of a return?",
    "How fast does support answer?",
)


def measure(base: BaseModelInfo, rounds: int, adapters_dir: Path) -> dict[str, Any]:
    """All figures; times in seconds, ratios over bare generate where the name says so."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device, dtype = choose_device("auto")
    bare: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype, attn_implementation="sdpa")
    bare = bare.to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    adapters = [_noise_adapter(base, adapters_dir / f"v{seed}", seed) for seed in (1, 2)]
    engine = TransformersEngine(base, GenerationSettings())
    prompts = [render_grounded(question, [PromptPassage(text) for text in PASSAGES]) for question in _QUESTIONS]
    try:
        loads = [_timed(lambda adapter=adapter: engine.ensure_adapter(adapter))[1] for adapter in adapters]
        _bare_round(bare, tokenizer, prompts[:1])
        _engine_round(engine, prompts[:1], [None])
        samples: dict[str, list[tuple[float, float]]] = {}
        for _ in range(rounds):
            for count in CONCURRENT:
                chosen = prompts[:count]
                samples.setdefault(f"bare_{count}", []).append(_bare_round(bare, tokenizer, chosen))
                samples.setdefault(f"engine_{count}", []).append(_engine_round(engine, chosen, [None]))
                samples.setdefault(f"adapter_{count}", []).append(_engine_round(engine, chosen, adapters[:1]))
                samples.setdefault(f"mixed_{count}", []).append(_engine_round(engine, chosen, [None, *adapters]))
    finally:
        engine.close()
    return _report(samples, loads) | {
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "base": base.stamp,
        "rounds": rounds,
        "prompt_tokens": len(_encode(tokenizer, prompts[0])),
    }


def _report(samples: dict[str, list[tuple[float, float]]], loads: Sequence[float]) -> dict[str, Any]:
    first = {name: statistics.median(sample[0] for sample in rows) for name, rows in samples.items()}
    speed = {name: statistics.median(sample[1] for sample in rows) for name, rows in samples.items()}
    figures: dict[str, Any] = {"adapter_load_s": round(statistics.median(loads), 3)}
    for count in CONCURRENT:
        bare = f"bare_{count}"
        figures[f"concurrent_{count}"] = {
            "bare": {"first_token_s": round(first[bare], 4), "tokens_per_s": round(speed[bare], 2)},
            **{
                kind: {
                    "first_token_ratio": round(first[f"{kind}_{count}"] / first[bare], 3),
                    "tokens_per_s_ratio": round(speed[f"{kind}_{count}"] / speed[bare], 3),
                }
                for kind in ("engine", "adapter", "mixed")
            },
        }
    return figures


def _bare_round(model: Any, tokenizer: Any, prompts: Sequence[Sequence[Message]]) -> tuple[float, float]:
    """Mean wait for the first token over all requests, all of which came at once, and tokens per second."""
    began, waits, tokens = perf_counter(), [], 0
    for prompt in prompts:
        ids = torch.tensor([_encode(tokenizer, prompt)], device=model.device)
        clock = FirstToken()
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False, streamer=clock
        )
        waits.append(clock.times[1] - began)
        tokens += output.shape[1] - ids.shape[1]
    return statistics.mean(waits), tokens / (perf_counter() - began)


def _engine_round(
    engine: TransformersEngine, prompts: Sequence[Sequence[Message]], adapters: Sequence[AdapterRef | None]
) -> tuple[float, float]:
    began = perf_counter()
    handles = [
        engine.submit(GenerationRequest(tuple(prompt), adapters[number % len(adapters)], MAX_TOKENS))
        for number, prompt in enumerate(prompts)
    ]
    tokens = sum(handle.result().completion_tokens for handle in handles)
    ended = perf_counter()
    waits = [handle.first_token_at - began for handle in handles if handle.first_token_at is not None]
    return statistics.mean(waits), tokens / (ended - began)


def _noise_adapter(base: BaseModelInfo, folder: Path, seed: int) -> AdapterRef:
    """A LoRA of rank 16 on all linear layers with small noise in it: the cost of an adapter without its training."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32),
        LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.002)
    model.save_pretrained(folder)
    manifest = build_manifest(folder, base)
    write_manifest(folder, manifest)
    return AdapterRef("benchmark", folder.name, manifest.content_digest, str(folder))


def _encode(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _timed(action: Any) -> tuple[Any, float]:
    began = perf_counter()
    return action(), perf_counter() - began


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder for the prepared model; default: a temporary one")
    parser.add_argument("--limit", type=int, default=3, help="rounds [3]")
    parser.add_argument("--json", type=Path, help="also write the report here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as work:
        base = prepare_base(options.data or Path(work) / "models", starter_folder())
        report = measure(base, options.limit, Path(work) / "adapters")
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
