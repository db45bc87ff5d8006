"""What each engine can serve of an adapter, told from its configuration alone: at a run's request and at registration.

The rules of the `transformers` engine are those of `adapters.checks`: they hold for everything that is registered. Each
remote engine adds its own. vLLM's are those of its `PEFTHelper`: DoRA, saved modules, biases and ranks over
`--max-lora-rank` are refused by it; an adapter initialised by PiSSA, OLoRA or CorDA changes the base's weights, so on
the unchanged base that a server holds it would act otherwise than it was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.settings import Settings
from generation.adapters.checks import changed_base_of


def refusal_of(settings: Settings, config: Mapping[str, Any]) -> str | None:
    """Why the engine of these settings cannot serve an adapter of this `adapter_config.json`; None when it can."""
    engine = settings.generation.engine
    if engine == "openai":
        return "the engine 'openai' loads no adapters; configure 'vllm' or 'transformers' to serve them"
    if engine == "vllm":
        return _vllm(config, settings.endpoint.max_lora_rank)
    return None


def _vllm(config: Mapping[str, Any], max_rank: int) -> str | None:
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
