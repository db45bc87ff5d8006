"""Every kind of adapter that is served, on both decode loops: the log-probabilities are those of PEFT's own model.

Base rows and all kinds share one batch; then the same kinds follow one another through a memory of two, where what one
left in its place would show in the next. Kinds that are not served are refused with their code.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.errors import AdapterRefused
from core.settings import GenerationSettings
from core.types import AdapterRef
from generation.adapters.forms import BOTTLENECK
from generation.adapters.manifest import CONFIG_FILE, WEIGHTS_FILE, build_manifest, read_config, write_manifest
from generation.engines.transformers_engine import TransformersEngine
from generation.models import BaseModelInfo, describe_base
from tests.decoded import assert_follows, decode, forced
from tests.tiny_adapters import PROMPTS, ask, reference, save_random_adapter
from tests.tiny_families import build_tiny
from tuning.attach import Attached, attach
from tuning.export import write_adapter, write_merged
from tuning.merge import load_factors, merge_adapters
from tuning.recipe import load_recipe
from tuning.recipe_parts import MergeRecipe

EVERY = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIGURED: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora-again": {"r": 4, "lora_alpha": 4},
    "one-column": {"r": 1, "lora_alpha": 3},
    "wide": {"r": 40, "lora_alpha": 10},
    "rslora": {"use_rslora": True, "r": 8, "lora_alpha": 8},
    "dora": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"layers.1.self_attn.q_proj": 9, "q_proj": 3, "mlp.up_proj": 5},
        "alpha_pattern": {"v_proj": 3, "layers.0.mlp.down_proj": 40},
    },
    "rslora-patterns": {"use_rslora": True, "rank_pattern": {"o_proj": 6}, "alpha_pattern": {".*mlp.*": 5}},
    "dora-patterns": {"use_dora": True, "use_rslora": True, "rank_pattern": {"k_proj": 2, "down_proj": 7}},
    "two-targets": {"r": 2, "target_modules": ["q_proj", "down_proj"]},
    "dora-one-target": {"use_dora": True, "target_modules": ["v_proj"]},
    "one-layer": {"target_modules": EVERY, "layers_to_transform": [1]},
    "expression": {"target_modules": r".*\.(k_proj|gate_proj)"},
    "excluded": {"target_modules": EVERY, "exclude_modules": r".*\.0\..*up_proj"},
}
WRITTEN = ["bottleneck", "pissa", "pissa-rslora", "full", "merged-cat", "merged-ties"]
KINDS = [*CONFIGURED, *WRITTEN]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelInfo:
    """A Llama with biases on every projection, which a factor on the output must leave alone."""
    folder = tmp_path_factory.mktemp("base")
    build_tiny("llama3-rope", folder)
    return describe_base(folder, "llama3-rope")


def load(base: BaseModelInfo) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()


class Made:
    """The adapters, what PEFT makes of each, and what was trained where this project wrote another form of it."""

    def __init__(self, base: BaseModelInfo, root: Path) -> None:
        self.base, self.root = base, root
        self.trained: dict[str, Any] = {}
        for seed, (name, config) in enumerate(CONFIGURED.items(), start=1):
            save_random_adapter(base, root / name, seed=seed, **config)
        self._write_bottleneck()
        for number, (name, recipe, values) in enumerate(
            (
                ("pissa", "style-pissa", {"lora.rank": 4, "lora.rank_stabilised": False}),
                ("pissa-rslora", "style-pissa", {"lora.rank": 4, "lora.alpha": 9, "lora.rank_stabilised": True}),
                ("full", "style-full", {"full.rank": 6}),
            )
        ):
            self._write_trained(name, recipe, values, seed=50 + number)
        self._write_merged()
        self.refs: dict[str, AdapterRef] = {}
        for name in KINDS:
            manifest = build_manifest(root / name, base)
            write_manifest(root / name, manifest)
            self.refs[name] = reference(root / name, manifest, f"v{KINDS.index(name)}")

    def by_peft(self, name: str | None) -> Any:
        from peft import PeftModel

        model = load(self.base)
        if name is None:
            return model
        if name == "bottleneck":
            return self._by_hand(model)
        return PeftModel.from_pretrained(model, self.root / name).eval()

    def _by_hand(self, model: Any) -> Any:
        """PEFT knows no bottleneck: W x + b + s B relu(A x), written down."""
        from safetensors.torch import load_file

        config = read_config(self.root / "bottleneck")
        tensors = load_file(self.root / "bottleneck" / WEIGHTS_FILE)

        def hook(down: torch.Tensor, up: torch.Tensor) -> Callable[..., torch.Tensor]:
            scale = config["lora_alpha"] / config["r"]
            return lambda _, inputs, output: output + scale * (inputs[0] @ down.T).relu() @ up.T

        for name, down in tensors.items():
            if ".lora_A." in name:
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                model.get_submodule(module).register_forward_hook(hook(down, tensors[name.replace("_A.", "_B.")]))
        return model

    def _write_bottleneck(self) -> None:
        folder = self.root / "bottleneck"
        save_random_adapter(self.base, folder, seed=40, r=6)
        values = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        (folder / CONFIG_FILE).write_text(json.dumps({**values, "peft_type": BOTTLENECK}), "utf-8")

    @torch.no_grad()
    def _write_trained(self, name: str, recipe_name: str, values: dict[str, Any], *, seed: int) -> None:
        """Attached, moved by noise where training would move it, and written as a run writes it."""
        recipe = load_recipe(recipe_name, values)
        attached: Attached = attach(load(self.base), recipe, seed=seed)
        torch.manual_seed(seed)
        for parameter in attached.model.parameters():
            if parameter.requires_grad and recipe.full is not None:
                rows, columns = parameter.shape
                parameter.add_(0.1 * torch.randn(rows, 3) @ torch.randn(3, columns))
            elif parameter.requires_grad:
                parameter.add_(0.2 * parameter.std() * torch.randn_like(parameter))
        trainer = SimpleNamespace(
            model=attached.model,
            accelerator=SimpleNamespace(unwrap_model=lambda model: model),
            is_deepspeed_enabled=False,
            is_fsdp_enabled=False,
            is_world_process_zero=lambda: True,
        )
        write_adapter(trainer, attached, recipe, self.base.path, self.root / name)
        self.trained[name] = attached.model.eval()

    def _write_merged(self) -> None:
        from peft import PeftModel

        sources = ["lora", "rslora"]
        parts = [load_factors(self.root / name) for name in sources]
        for how in ("cat", "ties"):
            recipe = MergeRecipe(combination=how, rank=None if how == "cat" else 12)
            merged = merge_adapters(parts, [0.7, -0.4], recipe, seed=0)
            write_merged(merged.rank, merged.targets, merged.state, self.root / f"merged-{how}")
        both = PeftModel.from_pretrained(load(self.base), self.root / sources[0], adapter_name="a")
        both.load_adapter(self.root / sources[1], adapter_name="b")
        both.add_weighted_adapter(["a", "b"], [0.7, -0.4], "both", combination_type="cat")
        both.set_adapter("both")
        self.trained["merged-cat"] = both.eval()


@pytest.fixture(scope="module")
def made(base: BaseModelInfo, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(base, tmp_path_factory.mktemp("kinds"))


@pytest.fixture(params=["plain", "paged"])
def decoder(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(base: BaseModelInfo, decoder: str, **more: Any) -> TransformersEngine:
    settings = {"decoder": decoder, "context_tokens": 500, "max_batch": 12, "max_queue": 64, **more}
    return TransformersEngine(base, GenerationSettings.model_validate(settings), dtype=torch.float32)


def test_every_kind_in_one_batch(base: BaseModelInfo, made: Made, decoder: str) -> None:
    """Rows of all kinds and of the base, in a random order, join and leave a batch of twelve; prompts in pieces."""
    engine = build(base, decoder, max_adapters=len(KINDS))
    wanted = [(kind, text) for kind in (None, *KINDS) for text in (PROMPTS[0], PROMPTS[1] * 3)]
    random.Random(decoder).shuffle(wanted)
    try:
        batch: Any = engine._batch
        batch._piece = 24
        answers = decode(engine, [ask(text, made.refs[kind] if kind else None, 10) for kind, text in wanted])
        assert len(engine.loaded_adapters()) == len(KINDS)
    finally:
        engine.close()
    heads = {}
    for kind in (None, *KINDS):
        model = made.by_peft(kind)
        mine = [answer for (other, _), answer in zip(wanted, answers, strict=True) if other == kind]
        for answer in mine:
            assert_follows(model, answer, tolerance=2e-4)
        heads[kind] = [answer.scores[0] for answer in mine]
        if kind in made.trained:
            base_model = load(base)
            for answer in mine:
                target, before = forced(made.trained[kind], answer), forced(base_model, answer)
                error = (torch.stack(answer.scores) - target).norm() / (target - before).norm()
                # bfloat16 rounds the written factors; noise this large is amplified by the layers above
                assert error < 0.05, (
                    f"{kind} as served is not what was trained: off by {float(error):.3f} of its effect"
                )
    for kind in KINDS:
        assert all((one - other).abs().max() > 1e-3 for one, other in zip(heads[kind], heads[None], strict=True)), kind


def test_a_kind_leaves_nothing_to_the_next_in_its_place(base: BaseModelInfo, made: Made, decoder: str) -> None:
    """A memory of two: DoRA's factors, a bottleneck's activation, wider ranks and more layers must go with them."""
    order = ["dora", "bottleneck", "wide", "two-targets", "dora-one-target", "lora", "bottleneck", "dora-patterns"]
    order += ["one-column", "pissa", "one-layer", "dora", "rslora-patterns"]
    models = {kind: made.by_peft(kind) for kind in (None, *order)}
    engine = build(base, decoder, max_adapters=2)
    try:
        for first, second in pairwise(order):
            kinds = (None, first, second)
            answers = decode(engine, [ask("hello", made.refs[kind] if kind else None, 4) for kind in kinds])
            for kind, answer in zip(kinds, answers, strict=True):
                assert_follows(models[kind], answer, tolerance=2e-4)
            assert len(engine.loaded_adapters()) <= 3
        if decoder == "paged":
            assert engine._batch._slots.slots <= 4, "slots were reused"  # type: ignore[attr-defined]
    finally:
        engine.close()


def _prefix(model: Any) -> Any:
    from peft import PrefixTuningConfig, get_peft_model

    return get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


def _prompt(model: Any) -> Any:
    from peft import PromptTuningConfig, get_peft_model

    return get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))


def _ia3(model: Any) -> Any:
    from peft import IA3Config, get_peft_model

    config = IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    return get_peft_model(model, config)


def _loha(model: Any) -> Any:
    from peft import LoHaConfig, get_peft_model

    return get_peft_model(model, LoHaConfig(task_type="CAUSAL_LM", r=2, target_modules=EVERY))


def _lora(**config: Any) -> Callable[[Any], Any]:
    def wrap(model: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        return get_peft_model(
            model, LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, "target_modules": EVERY, **config})
        )

    return wrap


REFUSED: dict[str, tuple[Callable[[Any], Any], dict[str, Any], str]] = {
    "prefix": (_prefix, {}, "adapter_unsupported"),
    "prompt": (_prompt, {}, "adapter_unsupported"),
    "ia3": (_ia3, {}, "adapter_unsupported"),
    "loha": (_loha, {}, "adapter_unsupported"),
    "pissa-as-peft-saves-it": (_lora(init_lora_weights="pissa"), {}, "adapter_unsupported"),
    "olora": (_lora(init_lora_weights="olora"), {}, "adapter_unsupported"),
    "saved-modules": (_lora(modules_to_save=["lm_head"]), {}, "adapter_unsupported"),
    "biases": (_lora(bias="lora_only"), {}, "adapter_unsupported"),
    "biases-of-lora": (_lora(lora_bias=True), {}, "adapter_unsupported"),
    "tokens": (_lora(trainable_token_indices=[1, 2]), {}, "adapter_unsupported"),
    "embeddings": (_lora(target_modules=["embed_tokens", "q_proj"]), {}, "adapter_unsupported"),
    "head": (_lora(target_modules=["lm_head", "q_proj"]), {}, "adapter_unsupported"),
    "magnitudes-of-a-bottleneck": (_lora(use_dora=True), {"peft_type": BOTTLENECK}, "adapter_bad_config"),
    "magnitudes-not-declared": (_lora(use_dora=True), {"use_dora": False}, "adapter_bad_config"),
    "magnitudes-missing": (_lora(), {"use_dora": True}, "adapter_bad_config"),
    "another-rank-declared": (_lora(), {"r": 5}, "adapter_bad_config"),
    "rank-beyond-all": (_lora(), {"rank_pattern": {"q_proj": 257}}, "adapter_bad_config"),
    "a-target-without-weights": (_lora(target_modules=["q_proj"]), {"target_modules": EVERY}, "adapter_bad_config"),
    "a-pattern-without-weights": (
        _lora(target_modules=["q_proj"]), {"target_modules": r".*\.(q|k)_proj"}, "adapter_bad_config",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def refused(base: BaseModelInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AdapterRef]]:
    root = tmp_path_factory.mktemp("refused")
    refs = {}
    for number, (name, (wrap, edit, _)) in enumerate(REFUSED.items()):
        folder = root / name
        torch.manual_seed(number)
        model = wrap(load(base))
        for part, parameter in model.named_parameters():
            if "lora_B" in part:
                torch.nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(folder)
        values = json.loads((folder / CONFIG_FILE).read_text("utf-8"))
        (folder / CONFIG_FILE).write_text(json.dumps({**values, **edit}), "utf-8")
        manifest = build_manifest(folder, base)
        write_manifest(folder, manifest)
        refs[name] = reference(folder, manifest, f"v{number}")
    yield refs


def test_other_kinds_are_refused_with_their_code(
    base: BaseModelInfo, made: Made, refused: dict[str, AdapterRef], decoder: str
) -> None:
    """Each in the middle of a batch that goes on; nothing of it stays in the model."""
    engine = build(base, decoder)
    try:
        alone = engine.submit(ask("hello", made.refs["lora"], 20)).result().text
        company = engine.submit(ask("hello", made.refs["lora"], 400))
        found = {}
        for name, adapter in refused.items():
            handle = engine.submit(ask("hello", adapter, 4))
            try:
                handle.result()
                found[name] = "served"
            except AdapterRefused as error:
                found[name] = error.code
        company.cancel()
        assert found == {name: code for name, (_, _, code) in REFUSED.items()}
        assert engine.loaded_adapters() == [made.refs["lora"].serving_name]
        assert engine.submit(ask("hello", made.refs["lora"], 20)).result().text == alone
        assert not engine._waiting
    finally:
        engine.close()
