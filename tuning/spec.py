"""What a training process is told (one JSON file) and what it says (JSON lines on stdout).

The trainer is a separate program on purpose: a crash, a leak or an out-of-memory kill in torch ends the process and not
the worker that started it. Both sides of that border are typed here, so neither parses the other's prose.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import DatasetRejected, InvalidInput
from tuning.recipe import AnyRecipe

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 75
"""SIGTERM or SIGINT arrived, a checkpoint is on disk, and the same spec run again continues from it (EX_TEMPFAIL)."""


class RewardSource(BaseModel):
    """A reward model that answers are scored by."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    path: Path = Field(description="Folder with the reward model's adapter and score head.")


class MergePart(BaseModel):
    """An adapter that is merged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path
    weight: float


class TrainSpec(BaseModel):
    """One training, complete: the same spec and the same files give the same adapter on the same machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_dir: Path = Field(description="Work folder of the run; checkpoints go to `run_dir/checkpoints`.")
    base_path: Path = Field(description="Folder of the base model: safetensors, config, tokenizer, chat template.")
    rows_path: Path = Field(description="Training rows, JSONL of `TrainRow`.")
    eval_rows_path: Path | None = Field(None, description="Held-out rows for the evaluation loss, same shape.")
    warm_start: Path | None = Field(
        None, description="Folder of an adapter whose weights training starts from, with a new optimiser."
    )
    reward_sources: tuple[RewardSource, ...] = Field((), description="Reward models by the run that trained them.")
    teacher_path: Path | None = Field(None, description="Folder of the larger model, for distillation.")
    merge_parts: tuple[MergePart, ...] = Field((), description="Adapters that are merged, in the recipe's order.")
    recipe: AnyRecipe = Field(description="How to train.")
    output_dir: Path = Field(description="Where the finished adapter goes, in PEFT's format. Replaced when done.")
    seed: int = Field(17, description="Seeds data order, LoRA initialisation and dropout.")


def load_spec(path: Path) -> TrainSpec:
    """Read a spec file.

    Raises:
        InvalidInput: not readable, not JSON, or not a spec.
    """
    try:
        return TrainSpec.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InvalidInput(f"Training spec {path} cannot be used: {error}", code="invalid_train_spec") from error


class TrainMessage(BaseModel):
    """One turn of a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class TrainRow(BaseModel):
    """One example: what the model is shown, and what it must say. Only `completion` and its stop token carry loss.

    `rejected` makes it a pair, of which `completion` is the better half; `label` makes it a judged answer. `facts`,
    `gold` (numbers of the passages that hold them), `refusal` and `passages` (as the prompt numbers them, from 1) are
    what the rules of GRPO and RLOO look at.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    prompt: tuple[TrainMessage, ...] = Field(min_length=1)
    completion: str = Field(min_length=1)
    rejected: str | None = None
    label: bool | None = None
    facts: tuple[str, ...] = ()
    gold: tuple[int, ...] = ()
    refusal: bool = False
    passages: tuple[str, ...] = ()


def read_rows(path: Path) -> list[TrainRow]:
    """Read rows, order kept.

    Raises:
        DatasetRejected: the file is empty or a line is no row; names the first bad line.
    """
    rows: list[TrainRow] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.append(TrainRow.model_validate_json(line))
            except ValidationError as error:
                raise DatasetRejected(f"{path.name} line {number} is no training row: {error}") from error
    if not rows:
        raise DatasetRejected(f"{path.name} holds no rows", code="dataset_empty")
    return rows


class TrainEvent(BaseModel):
    """One line of the trainer's stdout. Fields that an event has no value for are absent from the line."""

    model_config = ConfigDict(extra="forbid")

    event: Literal["start", "step", "eval", "checkpoint", "interrupted", "done", "error"]
    step: int | None = None
    total_steps: int | None = None
    epoch: float | None = None
    loss: float | None = Field(None, description="Mean negative log-likelihood per supervised token, in nats.")
    learning_rate: float | None = None
    grad_norm: float | None = None
    token_accuracy: float | None = Field(None, description="Share of supervised tokens that are the most likely one.")
    preference_accuracy: float | None = Field(None, description="Share of pairs whose better half scores higher.")
    reward: float | None = Field(None, description="Mean reward of the answers written in this step.")
    stage: str | None = Field(None, description="Stage of a staged recipe, such as `2-dpo`.")
    kept: float | None = Field(None, description="Share of a full fine-tuning's change that its rank keeps.")
    supervised_histogram: dict[str, int] | None = Field(None, description="Rows by their count of supervised tokens.")
    padded: str | None = Field(None, description="Why rows are padded and not packed; absent where they are packed.")
    tokens: int | None = Field(None, description="Tokens seen so far, prompts included, padding not.")
    rows: int | None = None
    supervised_tokens: int | None = Field(None, description="Tokens with loss in one pass over the rows.")
    trainable_parameters: int | None = None
    resumed_from: int | None = Field(None, description="Step of the checkpoint that training continued from.")
    path: str | None = None
    seconds: float | None = None
    device: str | None = None
    precision: str | None = None
    processes: int | None = Field(None, description="How many train together; absent for one.")
    recomputed: bool | None = Field(None, description="Layers keep their input alone; absent where they keep all.")
    code: str | None = None
    detail: str | None = None

    def line(self) -> str:
        """As written to stdout, without the line end."""
        return json.dumps(self.model_dump(exclude_none=True), ensure_ascii=False, allow_nan=False)


def parse_event(line: str) -> TrainEvent | None:
    """An event from one line of stdout, or None where the line is none (a library that prints)."""
    try:
        value: Any = json.loads(line)
        return TrainEvent.model_validate(value) if isinstance(value, dict) and "event" in value else None
    except ValueError:
        return None
