"""Patterns of an adapter's configuration: what PEFT reads in them, without ever running them in `re`."""

from __future__ import annotations

import re
import time

import pytest
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from core.errors import AdapterRefused
from generation.adapters.config_schema import check_schema
from generation.adapters.forms import lora_config_of
from generation.adapters.patterns import value_for, without_patterns

LORA = {"peft_type": "LORA", "r": 2}
MODULES = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1, 10)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
]


@pytest.mark.parametrize(
    "patterns",
    [
        {"q_proj": 3, "model.layers.1.mlp.up_proj": 5},
        {".*mlp.*": 5, "down_proj": 7},
        {r"layers\.1\.self_attn\.q_proj": 9, "^model.*k_proj": 2},
        {"layers.0.mlp.down_proj|q_proj": 4},
        {"proj": 1},
    ],
)
def test_numbers_by_module_are_those_of_peft(patterns: dict[str, int]) -> None:
    config = without_patterns({"r": 8, "rank_pattern": patterns}, MODULES)
    for module in MODULES:
        expected = patterns.get(get_pattern_key(patterns, module), 8)
        assert value_for({"rank_pattern": patterns}, "rank_pattern", module, 8) == expected
        written = config["rank_pattern"]
        assert written.get(get_pattern_key(written, module), 8) == expected


@pytest.mark.parametrize(
    "names",
    [
        {"target_modules": r".*\.(k_proj|up_proj)"},
        {"target_modules": ["q_proj", "mlp.up_proj"], "exclude_modules": r".*\.10\..*"},
        {"target_modules": ["q_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
        {"target_modules": r"(?:.*?(?:model|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj|down_proj))"},
    ],
)
def test_the_modules_written_out_are_those_of_peft(names: dict[str, object]) -> None:
    written = without_patterns({"r": 2, **names}, MODULES)
    assert all(not isinstance(written[name], str) for name in names)
    asked, given = lora_config_of({"r": 2, **names}), lora_config_of(written)
    for module in MODULES:
        assert bool(check_target_module_exists(given, module)) == bool(check_target_module_exists(asked, module))


@pytest.mark.parametrize("name", ["target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"])
def test_a_pattern_made_to_run_for_years_ends_at_once(name: str) -> None:
    evil = "((a|a)+)+b"
    modules = ["a" * size for size in (30, 3_000)]
    config = {name: {evil: 2} if name.endswith("pattern") else evil}
    began = time.process_time()
    check_schema({**LORA, **config})
    without_patterns(config, modules)
    assert time.process_time() - began < 2  # `re` needs hours for the shorter one


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": 5},
        {"target_modules": ["q_proj", None]},
        {"exclude_modules": {"a": 1}},
        {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {"q_proj": "8"}},
        {"alpha_pattern": {"q_proj": None}},
        {"alpha_pattern": {"q_proj": True}},
        {"rank_pattern": {"(": 8}},
        {"rank_pattern": {"q)|(k": 8}},
        {"layers_pattern": "(a|a)+"},
        {"layers_pattern": ["layers", "a.*"]},
        {"target_modules": "(?=a)q_proj"},
        {"target_modules": "a" * 20_000},
        {"target_modules": "((a{1000}){1000})"},
    ],
)
def test_what_cannot_be_read_is_refused_with_its_code(config: dict[str, object]) -> None:
    with pytest.raises(AdapterRefused) as refused:
        check_schema({**LORA, **config})
    assert refused.value.code == "adapter_bad_config"
    assert re.search(r"'\w", refused.value.detail)
