"""Training a base whose rotary positions depend on how long a sequence is (`longrope`, `dynamic`): rows one at a time.

All rows of a forward pass would be turned as its longest is, so a short row beside a long one would be trained
otherwise than it is served. Where every row is within the length at which the base was first trained, all are turned
alike, and nothing is changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from core.errors import InvalidInput
from generation.engines.rotation import depends_on_length, forget_lengths
from tuning.kinds import Method

if TYPE_CHECKING:
    from tuning.methods.work import Work


def rows_alone(work: Work, longest: int) -> Work:
    """The work itself where rows may share a pass; else one whose parts are single rows, with as many rows a step.

    longest: tokens of the longest row, with what is written behind it.

    Raises:
        InvalidInput: `rows_turn_each_other`: the method puts several rows in a pass by its nature.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(work.base_path)
    limit = unturned_length(config)
    if limit is None or longest <= limit:
        return work
    if work.recipe.method is not Method.SFT:
        raise InvalidInput(
            f"the base turns rows of over {limit} tokens otherwise than shorter ones, and '{work.recipe.method}' has"
            f" several in one pass; the longest has {longest}: set batch.max_tokens to {limit}, or train by 'sft'",
            code="rows_turn_each_other",
        )
    batch = work.recipe.batch
    single = batch.model_copy(update={"accumulation": batch.rows, "tokens": None, "packing": "padded"})
    return replace(work, recipe=work.recipe.model_copy(update={"batch": single}))


def unturned_length(config: Any) -> int | None:
    """Tokens up to which every sequence is turned alike; None where all are, whatever their length."""
    if not depends_on_length(config):
        return None
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    several = [one for one in parameters.values() if isinstance(one, dict)]
    known = [one.get("original_max_position_embeddings") for one in [parameters, *several]]
    given = [int(one) for one in [*known, getattr(text, "original_max_position_embeddings", None)] if one]
    return min(given, default=int(text.max_position_embeddings))


def forget_before_each_row(model: Any) -> None:
    """Let each pass begin from the rotation of a short sequence: a dynamic one remembers the longest ever seen."""
    if depends_on_length(model.config):
        model.register_forward_pre_hook(lambda module, _: forget_lengths(module))
