"""A base model made ready to train one kind of adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generation.adapters.forms import add_activation
from tuning.kinds import AdapterKind, Method
from tuning.recipe import Recipe
from tuning.targets import expert_parameters, linear_layers, resolve_targets

if TYPE_CHECKING:
    import torch

ADAPTER = "default"
"""Name of the adapter inside PEFT, also in its checkpoints."""


@dataclass(frozen=True, slots=True)
class Attached:
    """model: what is trained. initial: the factors that training starts from, where writing needs them (PiSSA)."""

    model: Any
    initial: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)


def load_base(path: Path, recipe: Recipe, dtype: torch.dtype) -> Any:
    """The base under the adapter: whole, or in 4 bits for QLoRA; with one score as its output for a reward model.

    Raises:
        ImportError: QLoRA without bitsandbytes.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {"dtype": dtype}  # attention is SDPA wherever the family has it
    if recipe.adapter is AdapterKind.FULL:
        options["dtype"] = torch.float32  # an update of a bfloat16 weight is mostly rounded away
    if recipe.adapter is AdapterKind.QLORA:
        options["quantization_config"] = _four_bits(dtype)
    if recipe.method is Method.REWARD:
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, **options)
        if not recipe.method.online:  # these pad prompts on the left, to write answers behind them
            model.get_decoder().register_forward_pre_hook(drop_attention_mask, with_kwargs=True)
    if recipe.adapter is AdapterKind.QLORA:
        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                # bitsandbytes would repack the weights at the first evaluation, which trained layers then cannot read
                module.support_avx512bf16_for_cpu = False
    return model


def drop_attention_mask(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook. Padding is on the right, so causal attention alone keeps it out: flash kernel."""
    return args, {**kwargs, "attention_mask": None}


def _four_bits(dtype: torch.dtype) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",  # the quantiles of normally distributed weights
        bnb_4bit_use_double_quant=True,  # scales in 8 bits: 0.4 bits a weight less
        bnb_4bit_compute_dtype=dtype if dtype is not torch.float16 else torch.bfloat16,
    )


def attach(model: Any, recipe: Recipe, *, seed: int) -> Attached:
    """Put a fresh adapter of the recipe's kind on a base; only the adapter requires gradients.

    Raises:
        InvalidInput: `target_not_found`, see `targets`.
    """
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import set_seed

    set_seed(seed)
    if recipe.adapter is AdapterKind.FULL:
        model.requires_grad_(False)
        for layer in linear_layers(model).values():
            layer.weight.requires_grad_(True)
        return Attached(model)
    adapted: Any = get_peft_model(model, peft_config(model, recipe), adapter_name=ADAPTER)
    if recipe.adapter is AdapterKind.BOTTLENECK:
        add_activation(adapted, ADAPTER)
    if recipe.adapter is not AdapterKind.PISSA:
        return Attached(adapted)
    state = get_peft_model_state_dict(adapted, adapter_name=ADAPTER)
    return Attached(adapted, {name: value.detach().clone() for name, value in state.items()})


def peft_config(model: Any, recipe: Recipe) -> Any:
    """PEFT's configuration of the recipe's adapter on this base."""
    from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig

    kind = recipe.adapter
    task = "SEQ_CLS" if recipe.method is Method.REWARD else "CAUSAL_LM"
    if kind is AdapterKind.PREFIX and recipe.virtual is not None:
        return PrefixTuningConfig(task_type=task, num_virtual_tokens=recipe.virtual.tokens)
    if kind is AdapterKind.PROMPT and recipe.virtual is not None:
        return PromptTuningConfig(task_type=task, num_virtual_tokens=recipe.virtual.tokens)
    if kind is AdapterKind.BOTTLENECK and recipe.bottleneck is not None:
        width = recipe.bottleneck.width
        return LoraConfig(
            task_type=task,
            r=width,
            lora_alpha=recipe.bottleneck.scale * width,
            target_modules=resolve_targets(model, recipe.bottleneck.targets),
            bias="none",
        )
    lora = recipe.factors
    return LoraConfig(
        task_type=task,
        r=lora.rank,
        lora_alpha=lora.alpha,
        use_rslora=lora.rank_stabilised or kind is AdapterKind.RSLORA,
        lora_dropout=lora.dropout,
        target_modules=resolve_targets(model, lora.targets),
        target_parameters=expert_parameters(model) if lora.experts else None,
        use_dora=kind is AdapterKind.DORA,
        init_lora_weights="pissa" if kind is AdapterKind.PISSA else True,
        bias="none",
    )
