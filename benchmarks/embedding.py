"""Embedding throughput of bge-m3's architecture with random weights, beside two references in the same run.

    python -m benchmarks.embedding [--chunks 20000] [--compile] [--json FILE]
    python -m benchmarks.embedding --layers 2 --hidden 64 --vocabulary 4000 --chunks 200 --device cpu

Chunks have a mean of 227 tokens (log-normal, 16 to 512). Tokenising is part of every figure. References: what
sentence-transformers does by default (fp32, batches of 32) and a plain bf16 loop over batches of 256 in the order of
the texts. The share is the arithmetic of the tokens themselves, padding not counted, over the rate of a large bf16
product measured here. Needs torch, transformers, tokenizers, sentence-transformers and nothing else of this project.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

from benchmarks.m3_checkpoint import make_checkpoint, words

MEAN_TOKENS = 234
"""Of the distribution before it is cut at both ends; 227 afterwards."""
SIGMA = 0.45
LIMITS = (16, 512)


def make_chunks(count: int, count_tokens: Callable[[str], int], seed: int = 1) -> list[str]:
    """Texts whose token counts are log-normal with a mean of about 227."""
    rng = random.Random(seed)
    pool = words(200_000, seed)
    sample = [pool[at : at + 100] for at in range(0, 5_000, 100)]
    per_word = statistics.mean(count_tokens(" ".join(part)) / len(part) for part in sample)
    mu = _mu()
    texts = []
    for _ in range(count):
        tokens = min(LIMITS[1], max(LIMITS[0], rng.lognormvariate(mu, SIGMA))) - 2
        at = rng.randrange(len(pool) - 600)
        texts.append(" ".join(pool[at : at + max(1, round(tokens / per_word))]))
    return texts


def _mu() -> float:
    return math.log(MEAN_TOKENS) - SIGMA**2 / 2


def matmul_rate(device: Any, dtype: Any) -> float:
    """Operations per second of a large square product: median of several."""
    import torch

    size = 8_192 if device.type == "cuda" else 1_536
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for attempt in range(13):
        _wait(device)
        began = perf_counter()
        for _ in range(10 if device.type == "cuda" else 1):
            a @ b
        _wait(device)
        if attempt >= 3:
            times.append((perf_counter() - began) / (10 if device.type == "cuda" else 1))
    return float(2 * size**3 / statistics.median(times))


def operations(lengths: Sequence[int], hidden: int, layers: int) -> float:
    """Multiplications and additions of the encoder for sequences of these lengths, without padding."""
    linear = 2 * layers * (4 * hidden * hidden + 2 * hidden * 4 * hidden) * sum(lengths)
    attention = layers * 4 * hidden * sum(length * length for length in lengths)
    return float(linear + attention)


def measure(encode: Callable[[Sequence[str]], object], texts: Sequence[str], device: Any, repeats: int) -> float:
    """Median seconds for all texts, after a warm-up on some of them."""
    encode(texts[: max(1, len(texts) // 8)])
    times = []
    for _ in range(repeats):
        _wait(device)
        began = perf_counter()
        encode(texts)
        _wait(device)
        times.append(perf_counter() - began)
    return statistics.median(times)


def plain_loop(folder: Path, device: Any, dtype: Any) -> Callable[[Sequence[str]], object]:
    """What one writes first: transformers in bf16, 256 texts at a time, padded to the longest."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=dtype, add_pooling_layer=False).eval().to(device)

    def encode(texts: Sequence[str]) -> object:
        found = []
        with torch.inference_mode():
            for start in range(0, len(texts), 256):
                batch = tokenizer(
                    list(texts[start : start + 256]), padding=True, truncation=True, max_length=512, return_tensors="pt"
                ).to(device)
                hidden = model(**batch).last_hidden_state[:, 0]
                found.append(torch.nn.functional.normalize(hidden.float(), dim=-1).cpu())
        return torch.cat(found)

    return encode


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything once."""
    import torch
    import transformers
    from sentence_transformers import SentenceTransformer

    from retrieval.embedders.bge_m3 import BgeM3Embedder, auto_dtype

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    name: Literal["cpu", "cuda"] = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    dtype = auto_dtype(device)
    corpus = [" ".join(words(60, seed)) for seed in range(400)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_checkpoint(
            Path(temporary),
            hidden=arguments.hidden,
            layers=arguments.layers,
            heads=max(1, arguments.hidden // 64),
            vocabulary=arguments.vocabulary,
            corpus=corpus,
        )
        ours = BgeM3Embedder(str(folder), device=name, max_tokens=512, batch_tokens=arguments.batch_tokens)
        texts = make_chunks(arguments.chunks, ours.count_tokens)
        lengths = [min(512, ours.count_tokens(text) + 2) for text in texts]
        total = operations(lengths, arguments.hidden, arguments.layers)
        rate = matmul_rate(device, dtype)
        few = texts[: max(32, arguments.chunks // 20)]
        some = texts[: max(256, arguments.chunks // 2)]
        figures: dict[str, Any] = {
            "device": torch.cuda.get_device_name(device) if name == "cuda" else "cpu",
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "dtype": str(dtype).removeprefix("torch."),
            "chunks": len(texts),
            "tokens_mean": round(statistics.mean(lengths), 1),
            "matmul_tflops": round(rate / 1e12, 2),
        }

        def report(label: str, seconds: float, part: Sequence[str]) -> None:
            per_s = len(part) / seconds
            share = total * len(part) / len(texts) / seconds / rate
            figures[label] = {"chunks_per_s": round(per_s, 1), "share_of_matmul": round(share, 4)}
            print(f"{label:<34}{per_s:>10.1f} chunks/s{100 * share:>8.1f} % of the bf16 product rate", flush=True)

        print(f"{figures['device']}: {rate / 1e12:.1f} TFLOP/s measured, mean {figures['tokens_mean']} tokens")
        report("tsumugi_dense", measure(lambda t: ours.encode(t, sparse=False), texts, device, 3), texts)
        report("tsumugi_dense_and_sparse", measure(ours.encode, texts, device, 3), texts)
        if arguments.compile:
            fused = BgeM3Embedder(
                str(folder), device=name, max_tokens=512, batch_tokens=arguments.batch_tokens, compiled=True
            )
            try:
                seconds = measure(lambda t: fused.encode(t, sparse=False), texts, device, 3)
            except Exception as error:  # noqa: BLE001 - no compiler on this machine: the other figures still count
                print(f"torch.compile does not work here: {type(error).__name__}: {str(error)[:300]}")
            else:
                report("tsumugi_dense_compiled", seconds, texts)
        mine = ours.encode(few, sparse=False).dense
        report("plain_bf16_loop_256", measure(plain_loop(folder, device, dtype), some, device, 1), some)
        reference = SentenceTransformer(str(folder), device=name, local_files_only=True)
        reference.max_seq_length = 512
        report(
            "sentence_transformers_fp32_32",
            measure(lambda t: reference.encode(list(t), show_progress_bar=False), few, device, 1),
            few,
        )
        theirs = reference.encode(list(few), show_progress_bar=False, normalize_embeddings=True)
        figures["lowest_cosine_with_sentence_transformers"] = round(float((mine * theirs).sum(axis=1).min()), 5)
    best = max(figures[key]["chunks_per_s"] for key in ("tsumugi_dense", "tsumugi_dense_compiled") if key in figures)
    figures["over_sentence_transformers"] = round(best / figures["sentence_transformers_fp32_32"]["chunks_per_s"], 2)
    figures["over_plain_loop"] = round(best / figures["plain_bf16_loop_256"]["chunks_per_s"], 2)
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", "--limit", type=int, default=20_000)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=1_024, help="a multiple of 64")
    parser.add_argument("--vocabulary", type=int, default=250_002)
    parser.add_argument("--batch-tokens", type=int, help="rows of one forward pass")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    figures = run(arguments)
    print(
        f"{figures['over_sentence_transformers']} times sentence-transformers' defaults,"
        f" {figures['over_plain_loop']} times the plain loop; lowest cosine with the former"
        f" {figures['lowest_cosine_with_sentence_transformers']}"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
