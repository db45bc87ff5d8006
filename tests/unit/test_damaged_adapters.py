"""Adapters that arrive damaged: each is refused with the reason that is true, by the header and a schema alone."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.numpy import save, save_file

from core.errors import AdapterRefused
from generation.adapters.archive import unpack
from generation.adapters.checks import check_config, check_servable
from generation.adapters.header import load_tensors, read_header

np = pytest.importorskip("numpy")
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG: dict[str, Any] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "bias": "none"}
A, B = f"{PREFIX}.lora_A.weight", f"{PREFIX}.lora_B.weight"


def good_weights() -> bytes:
    return bytes(save({A: np.ones((2, 8), "float32"), B: np.ones((6, 2), "float32")}))


def with_header(change: Callable[[dict[str, Any]], object], *, cut: int = 0, more: bytes = b"") -> bytes:
    data = good_weights()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    change(header)
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + body + more
    return whole[: len(whole) - cut]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((6, 8), "float32")}, folder / "model.safetensors")
    return folder


def adapter(tmp_path: Path, config: object = CONFIG, weights: bytes | None = None) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "adapter_config.json").write_text(text, "utf-8")
    (folder / "adapter_model.safetensors").write_bytes(good_weights() if weights is None else weights)
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_alpha", None), ("lora_alpha", "16"), ("lora_alpha", 0), ("lora_alpha", [4]), ("r", None), ("r", 2.0),
        ("r", True), ("r", 10**30), ("rank_pattern", []), ("rank_pattern", ["q_proj"]),
        ("rank_pattern", {"q_proj": "2"}),
        ("rank_pattern", {"(": 2}), ("alpha_pattern", [1]), ("alpha_pattern", {"q_proj": None}),
        ("alpha_pattern", {"q_(": 1}), ("target_modules", [1, "q_proj"]), ("target_modules", {"q_proj": 1}),
        ("target_modules", "(q_proj"), ("exclude_modules", 3), ("bias", None), ("bias", []), ("use_dora", "no"),
        ("use_rslora", 1), ("init_lora_weights", {}), ("modules_to_save", "lm_head"), ("layers_to_transform", "all"),
        ("lora_dropout", "x"), ("fan_in_fan_out", []), ("base_model_name_or_path", ["a"]), ("loftq_config", []),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_by_its_key(tmp_path: Path, base: Path, key: str, value: object) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check_servable(adapter(tmp_path, {**CONFIG, key: value}), base)
    assert refused.value.code == "adapter_bad_config"
    assert [error.location for error in refused.value.errors] == [key] and key in refused.value.detail


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ("[]", "adapter_bad_config"), ("null", "adapter_bad_config"), ("{", "adapter_bad_config"),
        ('{"r": ' + "[" * 100_000 + "]" * 100_000 + "}", "adapter_bad_config"),
        ('{"peft_type": "LORA", "r": 2, "note": "\\ud800"}', "adapter_bad_config"),
        ('{"peft_type": "LORA", "r": 2, "lora_alpha": NaN}', "adapter_bad_config"),
        ('{"peft_type": ["LORA"], "r": 2}', "adapter_unsupported"), ('{"peft_type": null}', "adapter_unsupported"),
        ("{}", "adapter_unsupported"),
    ],
)  # fmt: skip
def test_a_broken_configuration_has_its_code(tmp_path: Path, base: Path, config: str, code: str) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check_servable(adapter(tmp_path, config), base)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("weights", "code"),
    [
        (good_weights()[:-10], "adapter_bad_weights"), (good_weights()[:100], "adapter_bad_weights"),
        (good_weights() + b"more", "adapter_bad_weights"), (b"", "adapter_unsafe_file"),
        (b"\x80\x04pickle", "adapter_unsafe_file"), (b"\xff" * 64, "adapter_unsafe_file"),
        (struct.pack("<Q", 2) + b"[]", "adapter_unsafe_file"), (struct.pack("<Q", 2) + b"{}", "adapter_no_effect"),
        (struct.pack("<Q", 200_001) + b'{"a":' + b"[" * 99_998 + b"]" * 99_998, "adapter_unsafe_file"),
        (with_header(lambda h: h[A].update(dtype="F31")), "adapter_bad_weights"),
        (with_header(lambda h: h[A].update(dtype=None)), "adapter_bad_weights"),
        (with_header(lambda h: h[A].update(shape="2,8")), "adapter_bad_weights"),
        (with_header(lambda h: h[A].update(shape=[2, -8])), "adapter_bad_weights"),
        (with_header(lambda h: h[A].update(shape=[True, 16])), "adapter_bad_weights"),
        (with_header(lambda h: h[A].update(shape=[4, 8])), "adapter_bad_weights"),
        (with_header(lambda h: h[A].update(data_offsets=[0])), "adapter_bad_weights"),
        (with_header(lambda h: h[A].update(data_offsets=[64, 0])), "adapter_bad_weights"),
        (with_header(lambda h: h[B].update(data_offsets=h[A]["data_offsets"])), "adapter_bad_weights"),
        (with_header(lambda h: h.update({A: [1, 2]})), "adapter_bad_weights"),
        (with_header(lambda h: h.update({A: "x"})), "adapter_bad_weights"),
        (with_header(lambda h: h.update({"\ud800": h.pop(A)})), "adapter_bad_weights"),
        (with_header(lambda h: h.update(big={"dtype": "F32", "shape": [2**52] * 3, "data_offsets": [112, 112]})),
         "adapter_bad_weights"),
        (bytes(save({A: np.ones((2, 8), "int32"), B: np.ones((6, 2), "int32")})), "adapter_unsupported"),
    ],
)  # fmt: skip
def test_damaged_weights_are_told_from_what_is_no_weights(
    tmp_path: Path, base: Path, weights: bytes, code: str
) -> None:
    folder = adapter(tmp_path, weights=weights)
    with pytest.raises(AdapterRefused) as refused:
        check_servable(folder, base)
    assert refused.value.code == code
    refused.value.detail.encode()


def test_what_the_format_s_own_reader_refuses_is_refused_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(good_weights())
    assert set(load_tensors(path)) == set(read_header(path)) == {A, B}

    def refuse(_path: Path) -> None:
        raise SafetensorError("something else")

    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    with pytest.raises(AdapterRefused, match="something else") as refused:
        load_tensors(path)
    assert refused.value.code == "adapter_bad_weights"


def test_configurations_as_peft_writes_them_are_taken() -> None:
    peft = pytest.importorskip("peft")
    shapes: list[dict[str, Any]] = [
        {},
        {"use_dora": True, "use_rslora": True},
        {"rank_pattern": {r"layers\.0\.q_proj": 4}},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.q_proj", "init_lora_weights": "gaussian"},
    ]
    for given in shapes:
        written = peft.LoraConfig(**{"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], **given}).to_dict()
        as_file = {key: sorted(value) if isinstance(value, set) else value for key, value in written.items()}
        as_file = {key: value for key, value in as_file.items() if key != "runtime_config"}
        check_config(json.loads(json.dumps(as_file, default=str)))


def test_the_output_folder_of_a_trainer_is_taken_and_told(tmp_path: Path, base: Path) -> None:
    own = {"adapter_config.json": json.dumps(CONFIG).encode(), "adapter_model.safetensors": good_weights()}
    pickles = ["optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_1.pth", "training_args.bin", "scaler.pt"]
    beside = ["README.md", "tokenizer.json", "trainer_state.json", "chat_template.jinja"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for at in ("checkpoint-10/", "", "checkpoint-20/"):  # in any order
            for name, data in own.items():
                file.writestr(f"out/{at}{name}", data if not at else b"{}")
            for name in (*pickles, *beside):
                file.writestr(f"out/{at}{name}", b"\x80\x04.")
    folder = tmp_path / "unpacked"
    folder.mkdir()
    left_out = unpack(buffer.getvalue(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == own
    assert {f"out/{name}" for name in (*pickles, *beside)} < set(left_out)
    assert "out/checkpoint-20/adapter_model.safetensors" in left_out
    check_servable(folder, base)
