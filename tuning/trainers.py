"""TRL's SFTTrainer, twice: without what a CPU need not compute, and without what a GPU would wait for.

Both give the loss and the gradients of SFTTrainer on the same rows; tests compare them. What a 135M model spends on a
large GPU is waiting: for Python between kernels, for a gather after every part, for a number to be printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from tuning.rows import IGNORED

_MOST_ROWS = 256
_LOADERS = 4


def cpu_trainer() -> Any:
    """SFTTrainer whose loss unembeds the supervised positions only.

    TRL's loss unembeds every position, in float32: on a CPU that was most of a step for rows of which one token in
    seven is supervised.
    """
    import torch
    from trl import SFTTrainer

    class CpuTrainer(SFTTrainer):  # type: ignore[misc]
        """Same rows, same loss, a fraction of the work."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            causal = self.accelerator.unwrap_model(model).get_base_model()
            labels = inputs["labels"][:, 1:]
            supervised = labels != IGNORED
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(self.args.bf16)):
                hidden = causal.model(input_ids=inputs["input_ids"]).last_hidden_state[:, :-1]
                logits = causal.lm_head(hidden[supervised])
            total = torch.nn.functional.cross_entropy(logits.float(), labels[supervised], reduction="sum")
            loss = total / (supervised.sum() if num_items_in_batch is None else num_items_in_batch)
            return (loss, {"loss": loss.detach()}) if return_outputs else loss

    return CpuTrainer


def gpu_trainer(batches: Sequence[list[int]] | None) -> Any:
    """SFTTrainer that asks the GPU for nothing between log lines.

    batches: row numbers of each part of this process, in order (see `batches_by_tokens`); None leaves batching to TRL.
    """
    from torch.utils.data import DataLoader
    from trl import SFTTrainer

    class GpuTrainer(SFTTrainer):  # type: ignore[misc]
        """Counts stay on the device until they are logged."""

        _seen: list[Any] | None = None
        """Supervised tokens that were the most likely one, supervised tokens, tokens; of this process, unlogged."""

        def get_train_dataloader(self) -> Any:
            if batches is None:
                return super().get_train_dataloader()
            return DataLoader(
                self.train_dataset,
                batch_sampler=batches,
                collate_fn=self.data_collator,
                num_workers=_LOADERS,
                prefetch_factor=4,
                pin_memory=True,
            )

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if return_outputs or not self.model.training:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            outputs = model(**inputs, use_cache=False, fused_lm_head=True)
            count = outputs.label_mask.sum() if num_items_in_batch is None else num_items_in_batch
            loss = -outputs.log_probs.sum() / count
            if num_items_in_batch is not None:
                loss = (
                    loss * self.accelerator.num_processes
                )  # the count is of all processes, whose gradients are averaged
            seen = [outputs.is_top1.sum(), outputs.label_mask.sum(), inputs["attention_mask"].sum()]
            self._seen = seen if self._seen is None else [a + b for a, b in zip(self._seen, seen, strict=True)]
            return loss

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs and self._seen is not None:
                right, supervised, tokens = (int(count) for count in self._seen)
                self._total_train_tokens += tokens * self.accelerator.num_processes
                logs |= {"mean_token_accuracy": right / max(1, supervised), "num_tokens": self._total_train_tokens}
                self._seen = None
            super().log(logs, start_time)

        def floating_point_ops(self, inputs: Any) -> int:
            """Not counted: walking through 4,000 modules after every part costs more than the number is worth."""
            return 0

    return GpuTrainer


def batches_by_tokens(lengths: Sequence[int], budget: int, *, processes: int, rank: int, seed: int) -> list[list[int]]:
    """Row numbers of each batch of process `rank`: rows of like length, rows times the longest within `budget`.

    All processes get as many batches, and those of one step are of like length, since a step lasts as long as its
    longest part. Lengths are jittered by a tenth before sorting, so the same rows do not always meet; up to one batch
    a process of the longest rows is left out.
    """
    random = Random(seed)
    ranked = sorted(range(len(lengths)), key=lambda row: lengths[row] * random.uniform(0.95, 1.05))
    batches: list[list[int]] = [[]]
    longest = 0
    for row in ranked:
        longest = max(longest, lengths[row])
        if batches[-1] and (longest * (len(batches[-1]) + 1) > budget or len(batches[-1]) == _MOST_ROWS):
            batches.append([])
            longest = lengths[row]
        batches[-1].append(row)
    steps = [batches[at : at + processes] for at in range(0, len(batches) - processes + 1, processes)]
    random.shuffle(steps)
    return [step[rank] for step in steps]


def drop_attention_mask(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Forward pre-hook. Padding is on the right, so causal attention alone keeps it out: flash kernel."""
    return args, {**kwargs, "attention_mask": None}
