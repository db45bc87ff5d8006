"""Recipes: how an adapter is trained, as YAML in which every number carries a comment with its effect.

A recipe is data, never code: it holds no import path, so an uploaded or edited one cannot run anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import FieldError, InvalidInput, NotFound


class RecipePart(BaseModel):
    """Base of recipe sections: an unknown name is an error, because a misspelt number would silently not count."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraRecipe(RecipePart):
    """The adapter itself."""

    rank: int = Field(ge=1, le=256, description="Columns of each low-rank factor: capacity and file size.")
    alpha: float = Field(gt=0, description="Numerator of the scale on the adapter's output.")
    rank_stabilised: bool = Field(True, description="Scale alpha/sqrt(rank) instead of alpha/rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    targets: tuple[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], ...] = Field(
        min_length=1, description="Linear layers that get factors."
    )

    @property
    def scale(self) -> float:
        """Factor on the adapter's output."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


class OptimiserRecipe(RecipePart):
    """AdamW and its schedule."""

    learning_rate: float = Field(gt=0, le=0.1, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="Shape after warm-up.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of all steps spent rising to the peak.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled decay of the factors.")
    beta2: float = Field(0.999, gt=0, lt=1, description="Memory of the squared gradient.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are shortened to it.")


class BatchRecipe(RecipePart):
    """What one optimiser step sees, and how many there are."""

    rows: int = Field(ge=1, description="Rows of one optimiser step on one process.")
    accumulation: int = Field(1, ge=1, description="Parts that the step is computed in; `rows` must divide by it.")
    epochs: float = Field(1.0, gt=0, description="Passes over the rows.")
    max_steps: int | None = Field(None, ge=1, description="Stops here even inside a pass; and sets the schedule's end.")
    max_seconds: float | None = Field(
        None, gt=0, description="Ends by the clock, loading included; the schedule is then stretched over the time."
    )
    max_tokens: int = Field(ge=16, le=8192, description="Longest row. A longer one is an error, never cut.")
    tokens: int | None = Field(
        None,
        ge=1024,
        description="On a GPU: tokens of one part on one process, padding included, instead of `rows`. Short rows then "
        "come in larger batches, and every part keeps the GPU as busy.",
    )
    group_by_length: bool = Field(False, description="Batches of like length: less padding, less mixing.")


class DataRecipe(RecipePart):
    """What rows are made of beside those that a dataset brings."""

    refusal_share: float = Field(
        0.2, ge=0, le=0.5, description="Share of grounded rows that refuse; rows are made where a set brings fewer."
    )
    replay_share: float = Field(
        0.3,
        ge=0,
        le=0.9,
        description="Of a run that starts from a version: share of its rows that the version was trained on already, "
        "shown again so that they are not forgotten.",
    )


class CadenceRecipe(RecipePart):
    """How often things are said and saved."""

    log_steps: int = Field(1, ge=1, description="Steps between loss lines.")
    checkpoint_steps: int = Field(50, ge=1, description="Steps between checkpoints: work lost at most by a crash.")
    eval_steps: int | None = Field(
        None, ge=1, description="Steps between evaluations; None evaluates once, at the end."
    )


class Recipe(RecipePart):
    """One way to train."""

    name: str
    method: Literal["sft"] = "sft"
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Of the frozen base and the arithmetic; the factors are always float32."
    )
    compile_layers: bool = Field(
        False, description="On a GPU, fuse the small kernels of each layer: about a minute at the start of a run."
    )
    lora: LoraRecipe
    optimiser: OptimiserRecipe
    batch: BatchRecipe
    data: DataRecipe = DataRecipe()
    cadence: CadenceRecipe = CadenceRecipe()


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    folder = resources.files("tuning") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A packaged recipe by name, with `overrides` laid over it section by section.

    overrides: nested like the recipe (`{"optimiser": {"learning_rate": 1e-4}}`) or dotted
    (`{"optimiser.learning_rate": 1e-4}`).

    Raises:
        NotFound: no such recipe; the message lists those there are.
        InvalidInput: an override names nothing or is out of range; `errors` says where.
    """
    import yaml

    if name not in recipe_names():
        raise NotFound(f"No recipe {name!r}; there are: {', '.join(recipe_names())}", code="recipe_not_found")
    text = (resources.files("tuning") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    for key, value in (overrides or {}).items():
        _lay_over(values, key.split("."), value)
    return parse_recipe({**values, "name": name})


def parse_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values.

    Raises:
        InvalidInput: see `load_recipe`.
    """
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        errors = [FieldError(".".join(map(str, e["loc"])), e["msg"], e["type"]) for e in error.errors()]
        raise InvalidInput(
            "The recipe or its overrides cannot be used", code="invalid_recipe", errors=errors
        ) from error
    if recipe.batch.rows % recipe.batch.accumulation:
        problem = FieldError("batch.accumulation", f"must divide batch.rows ({recipe.batch.rows})", "not_a_divisor")
        raise InvalidInput("The recipe cannot be used", code="invalid_recipe", errors=[problem])
    return recipe


def _lay_over(values: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one override; mappings are merged, everything else replaces. Unknown names are left for validation."""
    head, rest = path[0], path[1:]
    if rest:
        section = values.setdefault(head, {})
        if not isinstance(section, dict):
            raise InvalidInput(f"Override {'.'.join(path)} goes into a value, not a section", code="invalid_recipe")
        _lay_over(section, rest, value)
    elif isinstance(value, Mapping) and isinstance(values.get(head), dict):
        for key, inner in value.items():
            _lay_over(values[head], [key], inner)
    else:
        values[head] = value
