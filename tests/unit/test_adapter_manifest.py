"""Digests, checks and the rollback stack, without a model: weights are small hand-made safetensors files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from core.errors import AdapterRefused
from generation.adapters.checks import check_servable
from generation.adapters.history import champions
from generation.adapters.manifest import (
    build_manifest,
    content_digest,
    read_manifest,
    verify,
    write_manifest,
)
from generation.models import BaseModelInfo

np = pytest.importorskip("numpy")
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none",
    "base_model_name_or_path": "/home/somebody/model", "inference_mode": True,
}  # fmt: skip


def save_adapter(folder: Path, weights=None, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    if weights is None:
        weights = {f"{PREFIX}.lora_A.weight": (2, 8), f"{PREFIX}.lora_B.weight": (6, 2)}
    save_file(
        {name: np.ones(shape, "float32") for name, shape in weights.items()}, folder / "adapter_model.safetensors"
    )
    return folder


@pytest.fixture
def base(tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    shapes = {"model.layers.0.self_attn.q_proj.weight": (6, 8), "model.embed_tokens.weight": (10, 8)}
    save_file({name: np.zeros(shape, "float32") for name, shape in shapes.items()}, folder / "model.safetensors")
    return BaseModelInfo(folder, "tiny", "a" * 64, "b" * 64, "c" * 64)


def test_the_digest_is_of_the_content_and_not_of_the_machine(tmp_path):
    here = save_adapter(tmp_path / "here")
    there = save_adapter(
        tmp_path / "there", base_model_name_or_path="C:/else", inference_mode=False, revision="x", peft_version="1"
    )
    assert content_digest(here) == content_digest(there)
    assert content_digest(save_adapter(tmp_path / "scaled", lora_alpha=8)) != content_digest(here)
    many = save_adapter(tmp_path / "m1", target_modules=["q_proj", "v_proj"])
    assert content_digest(many) == content_digest(save_adapter(tmp_path / "m2", target_modules=["v_proj", "q_proj"]))


def test_a_manifest_survives_the_disk_and_verifies(tmp_path, base):
    folder = save_adapter(tmp_path / "a")
    manifest = build_manifest(folder, base, dataset_version="d", recipe={"r": 2}, gate_report={"x": 1})
    write_manifest(folder, manifest)
    assert read_manifest(folder) == manifest == verify(folder, base)
    assert manifest.base_digest == base.digest and manifest.packages["peft"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"base_digest": "0" * 64}, "adapter_wrong_base"),
        ({"tokenizer_digest": "0" * 64}, "adapter_wrong_tokenizer"),
        ({"template_digest": "0" * 64}, "adapter_wrong_template"),
        ({"prompt_version": "grounded-0"}, "adapter_wrong_prompt"),
        ({"content_digest": "0" * 64}, "adapter_digest_mismatch"),
        ({"files": {}}, "adapter_digest_mismatch"),
        ({"files": {"../../etc/passwd": {"sha256": "0" * 64, "bytes": 1}}}, "adapter_digest_mismatch"),
        ({"base_digest": None}, "adapter_bad_manifest"),
    ],
)
def test_anything_bound_that_differs_is_refused(tmp_path, base, change, code):
    folder = save_adapter(tmp_path / "a")
    write_manifest(folder, build_manifest(folder, base))
    changed = {**json.loads((folder / "manifest.json").read_text()), **change}
    (folder / "manifest.json").write_text(json.dumps(changed))
    with pytest.raises(AdapterRefused) as refused:
        verify(folder, base)
    assert refused.value.code == code


def test_a_pickle_beside_good_weights_is_refused(tmp_path, base):
    folder = save_adapter(tmp_path / "a")
    write_manifest(folder, build_manifest(folder, base))
    (folder / "training_args.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(AdapterRefused) as refused:
        verify(folder, base)
    assert refused.value.code == "adapter_unsafe_file"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"use_qalora": True}, "adapter_unsupported"),
        ({"modules_to_save": ["lm_head"]}, "adapter_unsupported"),
        ({"bias": "all"}, "adapter_unsupported"),
        ({"peft_type": "IA3"}, "adapter_unsupported"),
        ({"trainable_token_indices": [1]}, "adapter_unsupported"),
        ({"r": 512}, "adapter_bad_config"),
        ({"r": "2"}, "adapter_bad_config"),
        ({"r": 4}, "adapter_bad_config"),
        ({"target_modules": ["q_proj", "k_proj"]}, "adapter_bad_config"),
    ],
)
def test_what_a_mixed_batch_cannot_serve_is_refused_with_its_reason(tmp_path, base, config, code):
    with pytest.raises(AdapterRefused) as refused:
        check_servable(save_adapter(tmp_path / "a", **config), base.path)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        ({f"{PREFIX}.lora_A.weight": (2, 9), f"{PREFIX}.lora_B.weight": (6, 2)}, "adapter_wrong_base"),
        ({"base_model.model.model.layers.7.x.lora_A.weight": (2, 8)}, "adapter_wrong_base"),
        ({f"{PREFIX}.lora_A.weight": (2, 8)}, "adapter_bad_config"),
        ({"model.embed_tokens.weight": (10, 8)}, "adapter_unsupported"),
        ({}, "adapter_no_effect"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, base, weights, code):
    with pytest.raises(AdapterRefused) as refused:
        check_servable(save_adapter(tmp_path / "a", weights), base.path)
    assert refused.value.code == code


def test_a_good_adapter_passes_and_rank_patterns_count(tmp_path, base):
    assert len(check_servable(save_adapter(tmp_path / "a"), base.path)) == 2
    weights = {f"{PREFIX}.lora_A.weight": (3, 8), f"{PREFIX}.lora_B.weight": (6, 3)}
    check_servable(save_adapter(tmp_path / "b", weights, rank_pattern={"q_proj": 3}), base.path)


def test_bytes_that_are_no_safetensors_are_refused(tmp_path, base):
    folder = save_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").write_bytes(b"\x80\x04\x95" * 20)
    with pytest.raises(AdapterRefused) as refused:
        check_servable(folder, base.path)
    assert refused.value.code == "adapter_unsafe_file"


@pytest.mark.parametrize(
    ("events", "stack"),
    [
        ([], [None]),
        ([("promote", "v1")], [None, "v1"]),
        ([("promote", "v1"), ("promote", "v1")], [None, "v1"]),
        ([("promote", "v1"), ("promote", "v2"), ("rollback", "v1")], [None, "v1"]),
        ([("promote", "v1"), ("promote", "v2"), ("rollback", "v1"), ("promote", "v2")], [None, "v1", "v2"]),
        ([("promote", "v1"), ("promote", "v2"), ("promote", "v3"), ("rollback", "v1")], [None, "v1"]),
        ([("promote", "v1"), ("rollback", None)], [None]),
        ([("promote", "v1"), ("rollback", "v7")], [None, "v1", "v7"]),
    ],
)
def test_rollbacks_walk_back_and_never_forward(events, stack):
    assert champions(events) == stack
