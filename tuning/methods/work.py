"""What every method starts from and gives back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import DatasetRejected
from tuning.attach import Attached, attach, load_base
from tuning.batches import BatchPlan
from tuning.kinds import AdapterKind, Method
from tuning.launching import world_size
from tuning.memory import available_memory, estimate_memory, longest_row, recomputes, require_memory, what_would_fit
from tuning.recipe import Recipe
from tuning.spec import RewardSource, TrainRow

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Work:
    """One stage of a training."""

    recipe: Recipe
    base_path: Path
    checkpoints: Path
    seed: int
    tokenizer: Any
    rows: Sequence[TrainRow]
    eval_rows: Sequence[TrainRow] | None
    dtype: torch.dtype
    on_gpu: bool
    warm_start: Path | None = None
    reward_sources: Sequence[RewardSource] = ()
    teacher_path: Path | None = None

    @property
    def processes(self) -> int:
        """Processes of the run."""
        return world_size()

    @property
    def rank(self) -> int:
        """Number of this process among them."""
        return int(os.environ.get("RANK", "0"))

    def model(self) -> Attached:
        """The base with a fresh adapter on it, or with the weights of `warm_start`.

        Raises:
            InvalidInput: `too_little_memory`; nothing was loaded.
        """
        import torch
        from transformers import set_seed

        from tuning.checkpoints import load_weights

        shape = self._shape()
        estimate = estimate_memory(self.base_path, self.recipe, **shape)
        available = available_memory(torch.device("cuda" if self.on_gpu else "cpu"))
        if estimate.least > available:
            require_memory(estimate, available, what_would_fit(self.base_path, self.recipe, available, **shape))
        set_seed(self.seed)  # a reward model's head is random
        attached = attach(load_base(self.base_path, self.recipe, self.dtype), self.recipe, seed=self.seed)
        if self.warm_start is not None:
            load_weights(attached.model, self.warm_start)
        return attached

    def recomputes(self) -> bool:
        """Whether layers compute again in the backward pass what they do not keep."""
        import torch

        kept = estimate_memory(self.base_path, self.recipe, **self._shape(), recomputed=False)
        available = available_memory(torch.device("cuda" if self.on_gpu else "cpu"))
        return recomputes(self.recipe, kept, available, on_gpu=self.on_gpu)

    def _shape(self) -> dict[str, Any]:
        """What estimates of memory go by."""
        return {
            "longest": min(longest_row(self.rows), self.recipe.batch.max_tokens),
            "value_bytes": self.dtype.itemsize,
            "by_tokens": self.on_gpu and self.recipe.method is Method.SFT,
            "processes": self.processes,
        }

    def arguments(self, plan: BatchPlan) -> dict[str, Any]:
        """The recipe's numbers as transformers' TrainingArguments, with none of TRL's defaults left to chance."""
        recipe, batch, optimiser, cadence = self.recipe, self.recipe.batch, self.recipe.optimiser, self.recipe.cadence
        import torch

        return {
            "output_dir": str(self.checkpoints),
            "seed": self.seed,
            "per_device_train_batch_size": batch.rows // batch.accumulation,
            "per_device_eval_batch_size": batch.rows // batch.accumulation,
            "gradient_accumulation_steps": batch.accumulation,
            "num_train_epochs": batch.epochs,
            "max_steps": plan.steps,
            "learning_rate": optimiser.learning_rate,
            "lr_scheduler_type": optimiser.schedule,
            "warmup_steps": optimiser.warmup_share,
            "weight_decay": optimiser.weight_decay,
            "adam_beta2": optimiser.beta2,
            "max_grad_norm": optimiser.max_grad_norm,
            "optim": "adamw_torch_fused" if self.on_gpu else "adamw_torch",
            "bf16": self.dtype is torch.bfloat16,
            "fp16": False,
            "use_cpu": not self.on_gpu,
            "gradient_checkpointing": self.recomputes(),
            # With PEFT, ZeRO 3 can only recompute the older way, which TRL then chooses.
            "gradient_checkpointing_kwargs": None if recipe.devices.strategy == "zero3" else {"use_reentrant": False},
            "train_sampling_strategy": "random",
            "logging_strategy": "steps",
            "logging_steps": cadence.log_steps,
            "logging_first_step": True,
            "logging_nan_inf_filter": False,  # it would look at every loss; what is not finite is reported as absent
            "save_strategy": "steps",
            "save_steps": cadence.checkpoint_steps,
            "save_total_limit": 2,
            "eval_strategy": "steps" if self.eval_rows is not None and cadence.eval_steps else "no",
            "eval_steps": cadence.eval_steps,
            "report_to": "none",
            "disable_tqdm": True,
            "dataloader_num_workers": 4 if self.on_gpu and recipe.method is Method.SFT else 0,
            "dataloader_pin_memory": self.on_gpu,
            "remove_unused_columns": False,
            "ddp_find_unused_parameters": False,
        }


@dataclass(frozen=True, slots=True)
class Built:
    """A trainer ready to start."""

    trainer: Any
    attached: Attached
    supervised_tokens: int
    """Tokens with loss in one pass over the rows; 0 where the model writes them itself."""
    supervised_histogram: dict[str, int] = field(default_factory=dict)
    """{upper bound of supervised tokens in a row: rows}."""
    padded: str | None = None
    """Why rows are padded and not packed; None where they are packed, or where the method has no packing."""


def rows_for(method: Method, rows: Sequence[TrainRow]) -> list[TrainRow]:
    """The rows that a method learns from.

    Answers are those without a judgement on them; where there are none, the better halves of pairs and what was judged
    good. A pair is two judged answers to KTO.

    Raises:
        DatasetRejected: `no_rows_for_method`.
    """
    if method in {Method.DPO, Method.ORPO, Method.REWARD}:
        found = [row for row in rows if row.rejected is not None]
    elif method is Method.KTO:
        found = []
        for row in rows:
            if row.rejected is not None:
                found.append(row.model_copy(update={"rejected": None, "label": True}))
                found.append(row.model_copy(update={"completion": row.rejected, "rejected": None, "label": False}))
            elif row.label is not None:
                found.append(row)
    else:
        found = [row for row in rows if row.rejected is None and row.label is None]
        found = found or [row for row in rows if row.label is not False]
    if not found:
        raise DatasetRejected(f"no row that '{method}' can learn from", code="no_rows_for_method")
    return found


def whole_factors(attached: Attached, kind: AdapterKind) -> None:
    """Factors back to float32: TRL rounds those over a 4-bit base to bfloat16, where small updates are lost."""
    if kind is AdapterKind.QLORA:
        for parameter in attached.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
