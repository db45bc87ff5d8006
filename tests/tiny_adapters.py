"""Adapters for the tiny model: random ones, quick to make, and trained ones that say one letter, unmistakably."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.types import AdapterRef, GenerationRequest, Message
from generation.adapters.manifest import Manifest, build_manifest, write_manifest
from generation.models import BaseModelInfo

PROMPTS = ("hello", "a longer question, with a comma?", "倉庫は何時に開きますか。", "x")


def save_random_adapter(base: BaseModelInfo, folder: Path, *, seed: int, **config: Any) -> Manifest:
    """A LoRA whose weights are noise, large enough to change every answer."""
    import torch

    model = _wrap(base, {"r": 4, **config})
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return _save(model, folder, base)


def save_letter_adapter(base: BaseModelInfo, folder: Path, letter: str) -> Manifest:
    """A LoRA trained to answer anything with `letter`, without end."""
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = _wrap(base, {"r": 8})
    (token,) = tokenizer(letter, add_special_tokens=False)["input_ids"]
    rows = []
    for prompt in (*PROMPTS, "what?", "tell me"):
        chat = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        rows.append(tokenizer(text, add_special_tokens=False)["input_ids"])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(40):
        losses, best = [], []
        for row in rows:
            tokens, labels = row + [token] * 12, [-100] * len(row) + [token] * 12
            output = model(input_ids=torch.tensor([tokens]), labels=torch.tensor([labels]))
            losses.append(output.loss)
            best.append(output.logits[0, len(row) - 1 :].argmax(-1))
        if all(bool((row == token).all()) for row in best):
            return _save(model, folder, base)
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    raise AssertionError("the letter was not learnt")


def reference(folder: Path, manifest: Manifest, version: str) -> AdapterRef:
    return AdapterRef("house", version, manifest.content_digest, str(folder))


def ask(text: str, adapter: AdapterRef | None = None, max_tokens: int = 12, **options: Any) -> GenerationRequest:
    return GenerationRequest((Message("user", text),), adapter, max_tokens, **options)


def _wrap(base: BaseModelInfo, config: dict[str, Any]) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    merged = {"lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    return get_peft_model(model, LoraConfig(**merged))


def _save(model: Any, folder: Path, base: BaseModelInfo) -> Manifest:
    model.save_pretrained(folder)
    manifest = build_manifest(folder, base)
    write_manifest(folder, manifest)
    return manifest
