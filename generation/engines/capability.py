"""What each engine serves of an adapter, told from its configuration alone.

The one place that says so. It is asked with the configuration that a recipe will write, before anything is trained,
and with that of the files at registration and import.

An engine that mixes versions in one batch needs a function of each layer's input and output per row. LoRA is one, and
so are its kin once they are written in its form; virtual tokens before the prompt are not. What else holds of files is
in `adapters.checks`. vLLM's rules are those of its `PEFTHelper`: DoRA, saved modules, biases and ranks over
`--max-lora-rank` are refused by it; an adapter initialised by PiSSA, OLoRA or CorDA changes the base's weights, so on
the unchanged base that a server holds it would act otherwise than it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.settings import Settings
from generation.adapters.checks import changed_base_of
from generation.adapters.forms import BOTTLENECK

VIRTUAL = frozenset({"PREFIX_TUNING", "PROMPT_TUNING"})
"""PEFT's names of trained tokens before the prompt."""


def refusal_of(settings: Settings, config: Mapping[str, Any]) -> str | None:
    """Why the engine of these settings cannot serve an adapter of this `adapter_config.json`; None when it can."""
    engine = settings.generation.engine
    if engine == "openai":
        return "the engine 'openai' loads no adapters; configure 'vllm' or 'transformers' to serve them"
    if config.get("target_parameters"):
        return "factors on the weights of experts are mixed by no engine here"
    kind = str(config.get("peft_type", "LORA")).upper()
    if engine == "vllm":
        return _vllm(config, kind, settings.endpoint.max_lora_rank)
    if kind in VIRTUAL:
        return "virtual tokens would shift the cache of every request in the batch"
    return None


def _vllm(config: Mapping[str, Any], kind: str, max_rank: int) -> str | None:
    if kind != "LORA":
        return "vLLM loads LoRA only" + (", and a bottleneck's activation makes it none" if kind == BOTTLENECK else "")
    if config.get("use_dora"):
        return "vLLM does not serve DoRA"
    if config.get("modules_to_save"):
        return "vLLM does not serve modules saved beside the adapter (modules_to_save)"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        return "vLLM does not serve trained biases"
    initialised = changed_base_of(config)
    if initialised is not None:
        return f"weights initialised by '{initialised}' belong to a changed base, which vLLM does not hold"
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    over = [rank for rank in ranks if isinstance(rank, int) and rank > max_rank]
    if over:
        return f"rank {max(over)} is over vLLM's --max-lora-rank {max_rank} (endpoint.max_lora_rank)"
    return None
