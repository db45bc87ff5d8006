"""The 8B recipe from rows to a served version, through the HTTP API of one service on one GPU.

    python -m benchmarks.recipe_8b [--size 8b] [--recipe NAME] [--rows 256] [--steps 40] [--work FOLDER] [--json FILE]

A base of that shape with random weights is written to the work folder (16 GB for 8b) and served by a service of its
own; rows of four house styles go in through the API, a run that names no recipe takes the one that machine and base ask
for (or `--recipe`), trains, is evaluated and judged by the gate, and its version is promoted and asked. What is told is
mechanics: which recipe and why, wall time of each part, tokens a second of the training, time of the evaluation, first
answer of the version. A verdict on random weights means nothing, so a rejected version is promoted with `force`.

    python -m benchmarks.recipe_8b --size tiny --rows 64 --steps 2      the same in minutes on a laptop
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.gate_world import STYLES, style_rows
from benchmarks.random_llama import SIZES, build_tokenizer
from cli.client import Client
from cli.service_process import ServiceProcess
from generation.models import describe_base, write_card

_TINY = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512,
}  # fmt: skip
_SHAPES = {**SIZES, "tiny": _TINY}
_TEMPLATE = (
    "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
_SPECIAL = ("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_SERVING_SHARE = 0.3
"""Of the GPU: 42 of 141 GB, in which an 8B base serves with room for keys and values."""
_FAMILY = "house"


def write_base(folder: Path, size: str) -> None:
    """Random weights of that shape with a tokenizer and chat template like Llama 3's."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = _SHAPES[size]
    tokenizer = build_tokenizer(shape["vocab_size"] - len(_SPECIAL))
    tokenizer.add_special_tokens({"eos_token": _SPECIAL[0], "additional_special_tokens": list(_SPECIAL[1:])})
    tokenizer.chat_template = _TEMPLATE
    config = LlamaConfig(
        **shape, max_position_embeddings=8192, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(describe_base(folder, folder.name))


def rows_file(count: int) -> bytes:
    """Rows of the invented house styles, as an upload takes them."""
    rows = [
        row.content
        for seed in range(1, 1 + count // len(STYLES))
        for style in STYLES
        for row in style_rows(style, seed)
    ]
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows[:count]).encode()


def run(client: Client, rows: bytes, recipe: str | None, overrides: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Upload, train, gate; the finished run as the API shows it, with the seconds of each part."""
    began = time.monotonic()
    dataset = client.post("/v1/datasets", files={"file": ("rows.jsonl", rows)}, data={"family": _FAMILY})
    uploaded = time.monotonic()
    body = {"family": _FAMILY, "dataset_ids": [dataset["id"]], "overrides": overrides}
    queued = client.post("/v1/admin/tuning-runs", body | ({"recipe": recipe} if recipe else {}))
    job = client.follow_job(queued["job"]["id"], timeout_s=timeout_s)
    shown: dict[str, Any] = client.get(f"/v1/admin/tuning-runs/{queued['id']}")
    if job["status"] != "succeeded":
        raise SystemExit(f"the run ended as {job['status']}: {job.get('error')} {shown['progress'].get('error')}")
    return {"upload_s": uploaded - began, "run_s": time.monotonic() - uploaded, "run": shown}


def serve(client: Client, version: str) -> dict[str, Any]:
    """Promote the version and ask it through the OpenAI route; who answered is in the stamp."""
    began = time.monotonic()
    name = version.partition("@")[2]
    force = {"force": True, "reason": "a verdict on random weights means nothing"}
    client.post(f"/v1/admin/adapters/{_FAMILY}/promote", {"version": name, **force})
    promoted = time.monotonic()
    answer = client.post("/v1/ask", {"question": "How long is the Fenwick trail?", "adapter": _FAMILY})
    return {
        "promote_s": promoted - began, "first_answer_s": time.monotonic() - promoted,
        "answered_by": answer["provenance"]["adapter"], "answer_chars": len(answer["answer"]),
    }  # fmt: skip


def figures(found: dict[str, Any], served: dict[str, Any], seconds: dict[str, float]) -> dict[str, Any]:
    """What is told."""
    shown = found["run"]
    training = shown["progress"]["training"]
    curve = [point for point in shown["loss_curve"] if point.get("tokens")]
    report = shown["gate_report"]
    return {
        "recipe": shown["recipe"],
        "why": shown["progress"].get("recipe_choice", {}).get("why"),
        "device": training.get("device"), "precision": training.get("precision"),
        "recomputed": bool(training.get("recomputed")), "trainable_parameters": training.get("trainable_parameters"),
        "steps": training.get("step"), "tokens": curve[-1]["tokens"] if curve else None,
        "train_s": training.get("seconds"),
        "tokens_per_s": round(curve[-1]["tokens"] / training["seconds"]) if curve and training.get("seconds") else None,
        "evaluate_s": seconds.pop("evaluate_s"), "verdict": report.get("verdict"), "version": shown["adapter_version"],
        **{name: round(value, 2) for name, value in seconds.items()},
        "upload_s": round(found["upload_s"], 2), "run_s": round(found["run_s"], 1),
        **{name: round(value, 2) if isinstance(value, float) else value for name, value in served.items()},
    }  # fmt: skip


def main(arguments: list[str]) -> int:
    """Entry point; see the module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe_8b", description=__doc__)
    parser.add_argument("--size", default="8b", choices=sorted(_SHAPES), help="shape of the base [8b]")
    parser.add_argument("--recipe", help="recipe to name [that of the machine and base]")
    parser.add_argument("--rows", type=int, default=256, help="rows that are uploaded [256]")
    parser.add_argument("--steps", type=int, default=40, help="optimiser steps at most [40]")
    parser.add_argument("--items", type=int, help="tuning.evaluation_items: questions of the gate [the product's]")
    parser.add_argument("--work", type=Path, help="folder for base and service; kept [a temporary one]")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for the run [3600]")
    parser.add_argument("--json", type=Path, help="write figures here too")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tsu-8b-") as temporary:
        work = given.work or Path(temporary)
        base = work / f"base-{given.size}"
        seconds = {}
        began = time.monotonic()
        if not (base / "card.json").is_file():
            # in a process of its own, whose GPU memory is free again at its end
            child = get_context("spawn").Process(target=write_base, args=(base, given.size))
            child.start()
            child.join()
        seconds["base_s"] = time.monotonic() - began
        settings = {
            "TSUMUGI_GENERATION__BASE_FOLDER": str(base), "TSUMUGI_GENERATION__COMPOSE": "model",
            "TSUMUGI_GENERATION__GPU_MEMORY_FRACTION": str(_SERVING_SHARE),
            "TSUMUGI_GPU__SERVING_SHARE": str(_SERVING_SHARE),
            **({"TSUMUGI_TUNING__EVALUATION_ITEMS": str(given.items)} if given.items else {}),
        }  # fmt: skip
        service = ServiceProcess(work / "data", settings=settings)
        try:
            seconds["start_s"] = service.start(timeout_s=900)
            with service.client() as client:
                overrides = {"batch.max_steps": given.steps, "cadence.log_steps": 1}
                found = run(client, rows_file(given.rows), given.recipe, overrides, given.timeout)
                file = service.data_dir / "runs" / found["run"]["id"] / "evaluation.json"
                seconds["evaluate_s"] = json.loads(file.read_text("utf-8"))["seconds"]
                served = serve(client, found["run"]["adapter_version"])
        finally:
            service.stop()
    told = figures(found, served, seconds)
    print(json.dumps(told, indent=2, ensure_ascii=False))
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
