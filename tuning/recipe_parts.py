"""The sections of a recipe. An unknown name is an error: a misspelt number would silently not count."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from tuning.kinds import AdapterKind, Method

ALL_LINEAR: Final = "all-linear"
"""Every linear layer of the decoder's layers, whatever the family calls them; never embeddings, output or router."""
MLP_ONLY: Final = "mlp"
"""Those of the decoder's MLPs; every linear layer where the MLPs are mixtures of experts, which are no targets."""
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=100)]
Targets = Literal["all-linear", "mlp"] | tuple[ModuleName, ...]


class RecipePart(BaseModel):
    """Base of recipe sections."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraRecipe(RecipePart):
    """Low-rank factors beside linear layers."""

    rank: int = Field(ge=1, le=256, description="Columns of each low-rank factor: capacity and file size.")
    alpha: float = Field(gt=0, description="Numerator of the scale on the adapter's output.")
    rank_stabilised: bool = Field(True, description="Scale alpha/sqrt(rank) instead of alpha/rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    targets: Targets = Field(ALL_LINEAR, description="Linear layers that get factors, by the end of their names.")
    experts: bool = Field(
        False, description="Factors on the fused weights of a mixture's experts too; such an adapter is export only."
    )

    @property
    def scale(self) -> float:
        """Factor on the adapter's output."""
        return self.alpha / (self.rank**0.5 if self.rank_stabilised else self.rank)


ONE_PROCESS: Final = "one"


class DevicesRecipe(RecipePart):
    """On how many devices a training runs, and what each of them holds."""

    strategy: Literal["one", "ddp", "fsdp", "zero1", "zero2", "zero3"] = Field(
        ONE_PROCESS,
        description="`ddp`: the whole model on every GPU. `fsdp`, `zero3`: weights spread over them, for bases that "
        "one does not hold. `zero1`, `zero2`: optimiser states, and gradients, spread.",
    )
    processes: int | None = Field(
        None, ge=2, le=64, description="How many; default: every GPU that training may use, 2 without a GPU."
    )


class VirtualRecipe(RecipePart):
    """Trained tokens before the prompt (prefix and prompt tuning)."""

    tokens: int = Field(ge=1, le=512, description="How many; each costs every request one column of cache.")


class BottleneckRecipe(RecipePart):
    """up(relu(down(x))) beside linear layers."""

    width: int = Field(ge=1, le=256, description="Units between down and up.")
    scale: float = Field(1.0, gt=0, description="Factor on the adapter's output.")
    targets: Targets = Field(ALL_LINEAR, description="Layers that get one, by the end of their names.")


class FullRecipe(RecipePart):
    """Every weight matrix of the decoder's layers."""

    rank: int = Field(ge=1, le=256, description="Rank that the change of each matrix is cut to when it is written.")


class OptimiserRecipe(RecipePart):
    """AdamW and its schedule."""

    learning_rate: float = Field(gt=0, le=1.0, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="Shape after warm-up.")
    warmup_share: float = Field(0.05, ge=0, lt=1, description="Share of all steps spent rising to the peak.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled decay of the factors.")
    beta2: float = Field(0.999, gt=0, lt=1, description="Memory of the squared gradient.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients longer than this are shortened to it.")


class BatchRecipe(RecipePart):
    """What one optimiser step sees, and how many there are."""

    rows: int = Field(ge=1, description="Rows of one optimiser step on one process; of GRPO and RLOO, answers.")
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
    packing: Literal["auto", "packed", "padded"] = Field(
        "auto",
        description="On a CPU, SFT: rows of a part behind one another, nothing computed for padding. `auto` pads where "
        "that cannot be done or would be slower, and the run says why; `packed` refuses there.",
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


class DpoRecipe(RecipePart):
    """Direct preference optimisation."""

    beta: float = Field(gt=0, le=10, description="How dearly distance from the reference is paid for.")
    loss: Literal["sigmoid", "ipo", "hinge", "robust"] = Field("sigmoid", description="Shape of the loss.")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="Share of pairs taken to be the wrong way round.")


class KtoRecipe(RecipePart):
    """Kahneman-Tversky optimisation: answers judged one by one."""

    beta: float = Field(gt=0, le=10, description="How dearly distance from the reference is paid for.")
    desirable_weight: float = Field(1.0, gt=0, description="Weight of answers judged good.")
    undesirable_weight: float = Field(1.0, gt=0, description="Weight of answers judged bad.")


class OrpoRecipe(RecipePart):
    """Odds-ratio preference optimisation: likelihood and preference in one loss, without a reference."""

    beta: float = Field(gt=0, le=10, description="Weight of the odds ratio beside the likelihood.")


class RewardRecipe(RecipePart):
    """Training of a reward model."""

    centring: float | None = Field(
        None, gt=0, le=1, description="Weight that draws the mean reward of a pair to zero; None leaves it free."
    )


class Reward(RecipePart):
    """One term of the reward of an answer."""

    kind: Literal["grounding", "citation", "refusal", "format", "length", "reward_model", "judge"] = Field(
        description="Rules over the answer, a reward model of ours, or the judges of the settings."
    )
    weight: float = Field(1.0, gt=0, le=100, description="Factor on the term before all are added.")
    run: str | None = Field(None, max_length=48, description="Of `reward_model`: the run that trained it.")
    max_chars: int | None = Field(None, ge=1, description="Of `length`: longest answer that costs nothing.")


class OnlineRecipe(RecipePart):
    """GRPO and RLOO: the model answers, rewards are compared within a group of answers to one prompt."""

    answers: int = Field(ge=2, le=64, description="Answers to each prompt; `batch.rows` must divide by it.")
    new_tokens: int = Field(ge=1, le=4096, description="Longest answer written.")
    temperature: float = Field(1.0, gt=0, le=2, description="Of the draw; at 0 a group would hold one answer.")
    beta: float = Field(0.0, ge=0, le=10, description="Weight of the distance from the reference.")
    rewards: tuple[Reward, ...] = Field(min_length=1, max_length=8, description="Terms of the reward.")


class DistillRecipe(RecipePart):
    """Distillation on the student's own answers."""

    teacher: str = Field(
        min_length=1, max_length=64, description="Folder of the teacher below `models_dir/teachers`; same tokenizer."
    )
    new_tokens: int = Field(ge=1, le=4096, description="Longest answer the student writes.")
    beta: float = Field(1.0, ge=0, le=1, description="0 is forward KL, 1 reverse KL, between them Jensen-Shannon.")
    temperature: float = Field(1.0, gt=0, le=2, description="Of the student's draw.")


class MergeSource(RecipePart):
    """One version of a merge."""

    version: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}@v[1-9][0-9]{0,8}$", description="FAMILY@VERSION")
    weight: float = Field(1.0, ge=-4, le=4, description="Factor on its change; below 0 takes it away.")


class MergeRecipe(RecipePart):
    """How the changes of several versions become one."""

    combination: Literal["linear", "cat", "svd", "ties", "dare"] = Field("svd", description="See `tuning.merge`.")
    rank: int | None = Field(None, ge=1, le=256, description="Of the result; default: that of the first. Not for cat.")
    density: float = Field(0.5, gt=0, le=1, description="Of ties and dare: share of entries kept.")
    sources: tuple[MergeSource, ...] = Field((), max_length=16, description="The versions, two at least.")


class Stage(RecipePart):
    """One stage of a staged recipe: the recipe's own numbers, with other values laid over them."""

    method: Method = Field(description="How this stage trains.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Values of this stage alone.")


SECTION_OF_KIND = {
    AdapterKind.PREFIX: "virtual",
    AdapterKind.PROMPT: "virtual",
    AdapterKind.BOTTLENECK: "bottleneck",
    AdapterKind.FULL: "full",
}
"""The section that holds a kind's numbers; `lora` for every other kind."""
