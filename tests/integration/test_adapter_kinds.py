"""Kinds of adapter beyond plain LoRA in the engine: mixed in one batch they say what each says alone in PEFT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.settings import GenerationSettings
from core.types import AdapterRef
from generation.adapters.forms import BOTTLENECK, load_adapter
from generation.adapters.manifest import CONFIG_FILE, build_manifest, write_manifest
from generation.engines.transformers_engine import TransformersEngine
from generation.models import BaseModelInfo
from tests.tiny_adapters import PROMPTS, ask, reference, save_random_adapter


@pytest.fixture(scope="module")
def adapters(base: BaseModelInfo, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    root = tmp_path_factory.mktemp("kinds")
    found = []
    for seed, (name, config) in enumerate({"lora": {}, "dora": {"use_dora": True}, "bottleneck": {}}.items(), start=1):
        folder = root / name
        manifest = save_random_adapter(base, folder, seed=seed, **config)
        if name == "bottleneck":
            values = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
            (folder / CONFIG_FILE).write_text(json.dumps({**values, "peft_type": BOTTLENECK}), "utf-8")
            manifest = build_manifest(folder, base)
            write_manifest(folder, manifest)
        found.append(reference(folder, manifest, f"v{seed}"))
    return found


def alone(base: BaseModelInfo, adapter: AdapterRef | None, text: str) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    if adapter is not None:
        model = load_adapter(model, Path(adapter.path), "one")
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer(chat, add_special_tokens=False, return_tensors="pt")
    output = model.eval().generate(**inputs, max_new_tokens=8, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).rstrip("\ufffd")


@pytest.mark.parametrize("decoder", ["plain", "paged"])
def test_kinds_mix_in_one_batch(base: BaseModelInfo, adapters: list[AdapterRef], decoder: str) -> None:
    settings = GenerationSettings.model_validate({"max_adapters": 4, "context_tokens": 1024, "decoder": decoder})
    engine = TransformersEngine(base, settings, dtype=torch.float32)
    try:
        asked = [(text, adapter) for text in PROMPTS[:3] for adapter in (None, *adapters)]
        handles = [engine.submit(ask(text, adapter, max_tokens=8)) for text, adapter in asked]
        said = [handle.result().text.rstrip("\ufffd") for handle in handles]
    finally:
        engine.close()
    assert said == [alone(base, adapter, text) for text, adapter in asked]
    assert len(set(said[:4])) == 4, "every kind must have an effect of its own"


def test_a_bottleneck_is_not_what_a_lora_of_its_tensors_would_be(
    base: BaseModelInfo, adapters: list[AdapterRef]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    with pytest.raises((KeyError, ValueError)):  # PEFT must not read the file as something else
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base.path), adapters[2].path)
