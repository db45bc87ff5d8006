"""`adapter_config.json` by a schema: whatever is read from it later has the type that the reader takes for granted.

PEFT writes some forty keys and every version a few more. Those that decide what the adapter computes are checked; the
others are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from core.errors import AdapterRefused, FieldError
from generation.adapters.patterns import compiled

MAX_RANK = 256
MAX_PATTERNS = 2_000
MAX_PATTERN_CHARS = 1_000
_SHOWN = 5


def _compiles(pattern: str) -> str:
    compiled(pattern)
    return pattern


_Text = Annotated[str, Field(max_length=MAX_PATTERN_CHARS)]
_Pattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN_CHARS), AfterValidator(_compiles)]
_Plain = Annotated[str, Field(pattern=r"\A\w{1,100}\z")]
_Names = Annotated[list[_Text], Field(max_length=MAX_PATTERNS)]
_Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
_Alpha = Annotated[FiniteFloat, Field(gt=0)]
_Switch = bool | None


class AdapterConfig(BaseModel):
    """The keys of LoRA and bottleneck adapters that the service reads, or hands to PEFT."""

    model_config = ConfigDict(strict=True, extra="allow")

    peft_type: _Text
    task_type: _Text | None = None
    base_model_name_or_path: str | None = None
    r: _Rank
    lora_alpha: _Alpha = 8
    lora_dropout: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0
    target_modules: _Names | _Pattern | None = None
    exclude_modules: _Names | _Pattern | None = None
    rank_pattern: Annotated[dict[_Pattern, _Rank], Field(max_length=MAX_PATTERNS)] | None = None
    alpha_pattern: Annotated[dict[_Pattern, _Alpha], Field(max_length=MAX_PATTERNS)] | None = None
    bias: Literal["none", "all", "lora_only"] = "none"
    init_lora_weights: bool | _Text | None = None
    use_rslora: _Switch = None
    use_dora: _Switch = None
    use_qalora: _Switch = None
    lora_bias: _Switch = None
    fan_in_fan_out: _Switch = None
    inference_mode: _Switch = None
    modules_to_save: _Names | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: _Plain | Annotated[list[_Plain], Field(max_length=MAX_PATTERNS)] | None = None
    """PEFT makes a pattern of it, so it may only be a name."""
    target_parameters: _Names | None = None
    layer_replication: list[Any] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    alora_invocation_tokens: list[int] | None = None
    loftq_config: dict[str, Any] | None = None


def check_schema(config: Mapping[str, Any]) -> None:
    """Check the values of a LoRA's or bottleneck's configuration.

    Raises:
        AdapterRefused: `adapter_bad_config`; `errors` names each key with what is wrong with it.
    """
    try:
        AdapterConfig.model_validate(dict(config))
    except ValidationError as error:
        found: dict[str, str] = {}
        for one in error.errors(include_url=False, include_input=False):
            key = str(one["loc"][0]) if one["loc"] else ""
            found.setdefault(key, str(one["msg"]))
        told = "; ".join(f"'{key}': {why}" for key, why in list(found.items())[:_SHOWN])
        raise AdapterRefused(
            f"adapter_config.json cannot be used: {told}",
            code="adapter_bad_config",
            errors=[FieldError(key, why, "adapter_bad_config") for key, why in found.items()],
        ) from error
