"""The vLLM engine against a real vLLM server. Skipped unless TSUMUGI_TEST_VLLM_URL (ending with /v1) names one.

TSUMUGI_TEST_VLLM_BASE is the folder of its base, on this machine; `python -m tests.integration.test_vllm_server FOLDER
TO` makes one of random weights from the configuration and the tokenizer in FOLDER. The server reads adapters from our
temporary folders, and is started with

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_SERVER_DEV_MODE=1 vllm serve BASE --served-model-name base --enable-lora \
        --max-loras 4 --max-cpu-loras 8 --max-lora-rank 16 --max-model-len 2048 --enable-sleep-mode \
        --structured-outputs-config '{"backend": "xgrammar", "disable_any_whitespace": true}'
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from core.errors import AdapterRefused, TooLarge
from core.settings import GenerationSettings, GeneratorEndpointSettings
from core.types import AdapterRef, AnswerFormat
from generation.adapters.fingerprint import measure_adapter
from generation.adapters.manifest import write_manifest
from generation.engines.vllm_engine import VllmEngine
from generation.engines.vllm_sleep import VllmSleeper
from generation.models import BaseModelInfo, describe_base
from tests.tiny_adapters import ask, reference, save_random_adapter

URL = os.environ.get("TSUMUGI_TEST_VLLM_URL", "")
pytestmark = pytest.mark.skipif(not URL, reason="TSUMUGI_TEST_VLLM_URL names no vLLM server")
ENDPOINT = GeneratorEndpointSettings(urls=(URL or "http://localhost/v1",))


@pytest.fixture(scope="module")
def base() -> BaseModelInfo:
    return describe_base(Path(os.environ["TSUMUGI_TEST_VLLM_BASE"]), "random")


@pytest.fixture(scope="module")
def adapters(base: BaseModelInfo, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    """Fingerprinted here, by the library they are trained with, as a training worker does."""
    folder = tmp_path_factory.mktemp("adapters")
    return [fingerprinted(base, folder / f"v{seed}", seed) for seed in range(3)]


@pytest.fixture
def engine(base: BaseModelInfo, tmp_path: Path) -> Iterator[VllmEngine]:
    made = VllmEngine(ENDPOINT, GenerationSettings(engine="vllm", max_adapters=4), base, adapters_dir=tmp_path)
    yield made
    for name in made.loaded_adapters():
        made.replicas[0].unload(name)
    made.close()


def fingerprinted(base: BaseModelInfo, folder: Path, seed: int) -> AdapterRef:
    manifest = save_random_adapter(base, folder, seed=seed)
    manifest = manifest.model_copy(update={"fingerprint": measure_adapter(base.path, folder)})
    write_manifest(folder, manifest)
    return reference(folder, manifest, f"v{seed}")


def shared(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def served() -> set[str]:
    return {card["id"] for card in httpx.get(f"{URL}/models", timeout=10).json()["data"]}


def test_the_base_answers_and_counts(engine: VllmEngine, base: BaseModelInfo) -> None:
    assert engine.ping() == base.stamp
    request = ask("Where is the warehouse? 倉庫はどこですか。", max_tokens=16)
    handle = engine.submit(request)
    pieces = list(handle)
    result = handle.result()
    assert "".join(pieces) == result.text and len(pieces) > 1
    assert result.completion_tokens == 16 and result.finish_reason == "length"
    assert result.prompt_tokens == pytest.approx(engine.count_prompt_tokens(request.messages), abs=32)


def test_adapters_prove_themselves_and_are_routed(engine: VllmEngine, adapters: list[AdapterRef]) -> None:
    for adapter in adapters:
        engine.ensure_adapter(adapter)
    assert set(engine.loaded_adapters()) == {adapter.serving_name for adapter in adapters} <= served()
    alone = [engine.submit(ask("hello", adapter)).result().text for adapter in (None, *adapters)]
    assert len(set(alone)) == 4
    handles = [engine.submit(ask("hello", adapter)) for _ in range(8) for adapter in (None, *adapters)]
    texts = [handle.result().text for handle in handles]
    # bf16 in another batch may turn a near tie, after which a text goes its own way: nearest is the longest beginning.
    nearest = [max(range(4), key=lambda of: shared(text, alone[of])) for text in texts]
    assert sum(found == number % 4 for number, found in enumerate(nearest)) >= 30, (alone, texts)


def test_an_adapter_that_is_not_what_it_says_is_refused(
    engine: VllmEngine, base: BaseModelInfo, adapters: list[AdapterRef], tmp_path: Path
) -> None:
    manifest = save_random_adapter(base, tmp_path / "liar", seed=9)
    others = measure_adapter(base.path, Path(adapters[0].path))
    write_manifest(tmp_path / "liar", manifest.model_copy(update={"fingerprint": others}))
    liar = reference(tmp_path / "liar", manifest, "v9")
    with pytest.raises(AdapterRefused) as refused:
        engine.ensure_adapter(liar)
    assert refused.value.code == "adapter_fingerprint_mismatch"
    assert liar.serving_name not in served()


def test_an_adapter_without_effect_is_refused(engine: VllmEngine, base: BaseModelInfo, tmp_path: Path) -> None:
    manifest = save_random_adapter(base, tmp_path / "zero", seed=1)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "zero" / "adapter_model.safetensors"
    save_file({name: tensor * 0 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(AdapterRefused) as refused:
        engine.fingerprint_of(reference(tmp_path / "zero", manifest, "v1"))
    assert refused.value.code == "adapter_no_effect"


def test_one_measured_by_the_server_proves_itself_there(
    engine: VllmEngine, base: BaseModelInfo, tmp_path: Path
) -> None:
    manifest = save_random_adapter(base, tmp_path / "new", seed=7)
    found = engine.fingerprint_of(reference(tmp_path / "new", manifest, "v7"))
    manifest = manifest.model_copy(update={"fingerprint": found})
    write_manifest(tmp_path / "new", manifest)
    adapter = reference(tmp_path / "new", manifest, "v7")
    engine.ensure_adapter(adapter)
    assert adapter.serving_name in served()


@pytest.mark.parametrize("config", [{"use_dora": True}, {"r": 32}])
def test_what_the_server_cannot_load_is_refused(
    engine: VllmEngine, base: BaseModelInfo, tmp_path: Path, config: dict[str, object]
) -> None:
    manifest = save_random_adapter(base, tmp_path / "bad", seed=3, **config)
    manifest = manifest.model_copy(update={"fingerprint": measure_adapter(base.path, tmp_path / "bad")})
    write_manifest(tmp_path / "bad", manifest)
    adapter = reference(tmp_path / "bad", manifest, "v3")
    with pytest.raises(AdapterRefused) as refused:
        engine.ensure_adapter(adapter)
    assert refused.value.code == "adapter_refused_by_server", refused.value.detail
    assert adapter.serving_name not in served()


def test_retired_and_lost_adapters(engine: VllmEngine, adapters: list[AdapterRef]) -> None:
    adapter = adapters[1]
    first = engine.submit(ask("hello", adapter)).result().text
    httpx.post(f"{URL}/unload_lora_adapter", json={"lora_name": adapter.serving_name}, timeout=30).raise_for_status()
    assert adapter.serving_name not in served()
    assert engine.submit(ask("hello", adapter)).result().text == first, "a server that lost it gets it again"
    engine.retire_adapter(adapter)
    assert adapter.serving_name not in served()


def test_answers_follow_a_schema(engine: VllmEngine, adapters: list[AdapterRef]) -> None:
    schema = {
        "type": "object", "properties": {"open": {"type": "boolean"}, "day": {"enum": ["月", "Tue"]}},
        "required": ["open", "day"], "additionalProperties": False,
    }  # fmt: skip
    wanted = AnswerFormat("hours", json.dumps(schema))
    for adapter in (None, adapters[0]):
        answer = json.loads(engine.submit(ask("Open?", adapter, 64, answer_format=wanted)).result().text)
        assert isinstance(answer["open"], bool) and answer["day"] in {"月", "Tue"}


def test_what_is_too_long_says_so(engine: VllmEngine) -> None:
    with pytest.raises(TooLarge) as refused:
        engine.submit(ask("word " * 4000)).result()
    assert refused.value.code == "context_length_exceeded"


def test_it_sleeps_and_wakes_with_its_adapters(engine: VllmEngine, adapters: list[AdapterRef]) -> None:
    before = engine.submit(ask("hello", adapters[0])).result().text
    sleeper = VllmSleeper(ENDPOINT)
    sleeper.sleep()
    root = URL.removesuffix("/v1")
    assert httpx.get(f"{root}/is_sleeping", timeout=10).json()["is_sleeping"] is True
    sleeper.wake()
    assert httpx.get(f"{root}/is_sleeping", timeout=10).json()["is_sleeping"] is False
    assert engine.submit(ask("hello", adapters[0])).result().text == before


def _make_base(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source), dtype=torch.bfloat16)
    model.generation_config.eos_token_id = None
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


if __name__ == "__main__":
    _make_base(Path(sys.argv[1]), Path(sys.argv[2]))
