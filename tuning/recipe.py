"""Recipes: how an adapter is trained, as YAML in which every number carries a comment with its effect.

One format for all methods, told apart by `method`. A recipe is data, never code: it holds no import path, so an
uploaded or edited one cannot run anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from core.errors import FieldError, InvalidInput, NotFound
from tuning.kinds import CONVERTED_KINDS, LORA_KINDS, VIRTUAL_KINDS, AdapterKind, Method
from tuning.recipe_parts import (
    SECTION_OF_KIND,
    BatchRecipe,
    BottleneckRecipe,
    CadenceRecipe,
    DataRecipe,
    DevicesRecipe,
    DistillRecipe,
    DpoRecipe,
    FullRecipe,
    KtoRecipe,
    LoraRecipe,
    MergeRecipe,
    OnlineRecipe,
    OptimiserRecipe,
    OrpoRecipe,
    RecipePart,
    RewardRecipe,
    Stage,
    VirtualRecipe,
)


class Recipe(RecipePart):
    """One way to train; what every method has."""

    name: str
    method: Method
    adapter: AdapterKind = Field(AdapterKind.LORA, description="What is trained.")
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Of the frozen base and the arithmetic; the factors are always float32."
    )
    export: bool = Field(
        False, description="Train for download: the adapter is kept with the run, and is no version that can serve."
    )
    compile_layers: bool = Field(
        False, description="On a GPU, fuse the small kernels of each layer: about a minute at the start of a run."
    )
    activations: Literal["auto", "kept", "recomputed"] = Field(
        "auto",
        description="What layers keep for the backward pass: all, or their input alone, from which the rest is "
        "computed again (a third more time). `auto` recomputes where the rest would not fit.",
    )
    devices: DevicesRecipe = DevicesRecipe()
    lora: LoraRecipe | None = None
    virtual: VirtualRecipe | None = None
    bottleneck: BottleneckRecipe | None = None
    full: FullRecipe | None = None
    optimiser: OptimiserRecipe
    batch: BatchRecipe
    data: DataRecipe = DataRecipe()
    cadence: CadenceRecipe = CadenceRecipe()

    @property
    def factors(self) -> LoraRecipe:
        """The section `lora`, of a kind that has one."""
        if self.lora is None:
            raise TypeError(f"'{self.adapter}' has no low-rank factors")
        return self.lora


class SftRecipe(Recipe):
    """Imitate answers."""

    method: Literal[Method.SFT] = Method.SFT


class DpoMethod(Recipe):
    """Prefer one answer of a pair over the other."""

    method: Literal[Method.DPO]
    dpo: DpoRecipe


class KtoMethod(Recipe):
    """Learn from answers judged good or bad."""

    method: Literal[Method.KTO]
    kto: KtoRecipe


class OrpoMethod(Recipe):
    """Imitate and prefer at once."""

    method: Literal[Method.ORPO]
    orpo: OrpoRecipe


class RewardMethod(Recipe):
    """Learn to score answers."""

    method: Literal[Method.REWARD]
    reward: RewardRecipe = RewardRecipe()


class GrpoMethod(Recipe):
    """Answer, and move towards the better ones of a group."""

    method: Literal[Method.GRPO]
    online: OnlineRecipe


class RlooMethod(Recipe):
    """The same with a leave-one-out baseline."""

    method: Literal[Method.RLOO]
    online: OnlineRecipe


class DistillMethod(Recipe):
    """Answer, and move towards what a larger model would have said."""

    method: Literal[Method.DISTILL]
    distill: DistillRecipe


class MergeMethod(Recipe):
    """Combine versions; nothing is trained."""

    method: Literal[Method.MERGE]
    merge: MergeRecipe
    optimiser: OptimiserRecipe = OptimiserRecipe(learning_rate=1e-9)
    """Unused."""


class StagedMethod(Recipe):
    """Methods one after another on one adapter. Its own numbers are those of every stage that says nothing else."""

    method: Literal[Method.STAGED]
    stages: tuple[Stage, ...] = Field(min_length=2, max_length=6)


AnyRecipe = Annotated[
    SftRecipe
    | DpoMethod
    | KtoMethod
    | OrpoMethod
    | RewardMethod
    | GrpoMethod
    | RlooMethod
    | DistillMethod
    | MergeMethod
    | StagedMethod,
    Field(discriminator="method"),
]
_ADAPTER: TypeAdapter[AnyRecipe] = TypeAdapter(AnyRecipe)


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
    """A recipe from plain values; without a `method` it is SFT.

    Raises:
        InvalidInput: see `load_recipe`.
    """
    try:
        recipe = _ADAPTER.validate_python({"method": Method.SFT.value, **values})
    except ValidationError as error:
        methods = {method.value for method in Method}
        errors = []
        for found in error.errors():
            place = [str(part) for part in found["loc"]]
            where = place[1:] if len(place) > 1 and place[0] in methods else place  # the union puts its branch in front
            errors.append(FieldError(".".join(where), found["msg"], found["type"]))
        raise InvalidInput(
            "The recipe or its overrides cannot be used", code="invalid_recipe", errors=errors
        ) from error
    problems = list(_contradictions(recipe))
    if problems:
        raise InvalidInput(
            f"The recipe cannot be used: {problems[0].location} {problems[0].detail}",
            code="invalid_recipe",
            errors=problems,
        )
    return recipe


def stages_of(recipe: Recipe) -> list[Recipe]:
    """The recipes that are trained one after another: the recipe itself, or those of its stages.

    Raises:
        InvalidInput: a stage cannot be used, or cannot follow.
    """
    if not isinstance(recipe, StagedMethod):
        return [recipe]
    found = []
    for number, stage in enumerate(recipe.stages):
        values = recipe.model_dump(mode="json", exclude={"stages"})
        for key, value in stage.overrides.items():
            _lay_over(values, key.split("."), value)
        if stage.method in {Method.STAGED, Method.REWARD, Method.MERGE} or values["adapter"] in CONVERTED_KINDS:
            detail = f"'{stage.method}' with '{values['adapter']}' cannot be trained on from what it writes"
            problem = FieldError(f"stages.{number}", detail, "not_a_stage")
            raise InvalidInput("The stages do not fit one another", code="invalid_recipe", errors=[problem])
        for section in ("adapter", "export", "devices", "lora", "virtual", "bottleneck"):
            if values[section] != recipe.model_dump(mode="json")[section]:
                problem = FieldError(f"stages.{number}.overrides", f"'{section}' is of all stages", "not_a_stage")
                raise InvalidInput("The stages do not fit one another", code="invalid_recipe", errors=[problem])
        found.append(parse_recipe({**values, "method": stage.method.value}))
    return found


def _contradictions(recipe: Recipe) -> list[FieldError]:
    """What no single field shows."""
    problems = []
    batch = recipe.batch
    if batch.rows % batch.accumulation:
        problems.append(FieldError("batch.accumulation", f"must divide batch.rows ({batch.rows})", "not_a_divisor"))
    section = SECTION_OF_KIND.get(recipe.adapter, "lora")
    if recipe.method is not Method.MERGE and getattr(recipe, section) is None:
        problems.append(FieldError(section, f"is missing; adapter '{recipe.adapter}' needs it", "missing"))
    if recipe.adapter in VIRTUAL_KINDS and recipe.method is not Method.SFT:
        problems.append(FieldError("adapter", "virtual tokens are trained by 'sft' alone", "not_supported"))
    if recipe.method is Method.REWARD and recipe.adapter not in LORA_KINDS - CONVERTED_KINDS:
        problems.append(FieldError("adapter", "a reward model is trained with LoRA or one of its kin", "not_supported"))
    if isinstance(recipe, GrpoMethod | RlooMethod):
        if batch.rows % recipe.online.answers:
            detail = f"must divide batch.rows ({batch.rows})"
            problems.append(FieldError("online.answers", detail, "not_a_divisor"))
        for number, reward in enumerate(recipe.online.rewards):
            if (reward.kind == "reward_model") != (reward.run is not None):
                problems.append(FieldError(f"online.rewards.{number}.run", "goes with reward_model", "missing"))
            if (reward.kind == "length") != (reward.max_chars is not None):
                problems.append(FieldError(f"online.rewards.{number}.max_chars", "goes with length", "missing"))
    if isinstance(recipe, KtoMethod) and batch.rows // batch.accumulation < 2:
        problems.append(FieldError("batch.rows", "KTO compares answers within a part: at least 2", "too_small"))
    return problems


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
