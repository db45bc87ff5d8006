"""Adapters with unmistakable voices: whatever is asked, each says its one word over and over.

Made without training, in seconds: the last MLP gets a rank-one update whose input side is fitted to be 1 on any text,
and whose output side points to the word. So an answer's text proves which version wrote it.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

STRENGTH = 60.0
"""How far the update pushes the last hidden state; at 10 the base still gets a word in."""


def voice_archives(base_path: Path, words: list[str], texts: list[str]) -> dict[str, bytes]:
    """A PEFT adapter as .tar for each word, a single token with its leading space. texts: what the input side fits."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_path)
    model: Any = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32).eval()
    last = model.model.layers[-1].mlp.down_proj
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0][0]))
    tokens = {word: tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words}
    assert all(len(ids) == 1 for ids in tokens.values()), tokens
    with torch.inference_mode():
        for text in [*texts, *(f" {word}" * 40 for word in words)]:
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=400)["input_ids"]
            model(input_ids=ids)
    hook.remove()
    inputs = torch.cat([rows[1:] for rows in seen]).double()  # the first position of any text is an outlier
    gram = inputs.T @ inputs + 1e-3 * inputs.pow(2).mean() * len(inputs) * torch.eye(inputs.shape[1])
    read = torch.linalg.solve(gram, inputs.sum(0))
    archives = {}
    for word, (token,) in tokens.items():
        towards = _direction_of(model, token) * STRENGTH
        archives[word] = _archive(read.float()[None], towards[:, None], len(model.model.layers) - 1)
    return archives


def _direction_of(model: Any, token: int) -> Any:
    """A last hidden state, of norm sqrt(its size), after which the token is certain."""
    import torch

    with torch.no_grad():
        weights = model.lm_head.weight * model.model.norm.weight
    state = weights[token].clone().requires_grad_()
    optimizer = torch.optim.Adam([state], lr=0.05)
    for _ in range(60):
        normed = state / state.pow(2).mean().sqrt()
        loss = torch.nn.functional.cross_entropy((weights @ normed)[None], torch.tensor([token]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1, f"no state says this token: {loss.item()}"
    return (state / state.pow(2).mean().sqrt()).detach()


def _archive(side_a: Any, side_b: Any, layer: int) -> bytes:
    from safetensors.torch import save

    name = f"base_model.model.model.layers.{layer}.mlp.down_proj"
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 1,
        "lora_alpha": 1,
        "target_modules": [f"model.layers.{layer}.mlp.down_proj"],
    }
    weights = save({f"{name}.lora_A.weight": side_a.contiguous(), f"{name}.lora_B.weight": side_b.contiguous()})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for filename, data in (
            ("adapter_config.json", json.dumps(config).encode()),
            ("adapter_model.safetensors", weights),
        ):
            entry = tarfile.TarInfo(filename)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
