"""TRL's SFTTrainer, twice: without what a CPU need not compute, and without what a GPU would wait for.

Both give the loss and the gradients of SFTTrainer on the same rows; tests compare them. What a 135M model spends on a
large GPU is waiting: for Python between kernels, for a gather after every part, for a number to be printed.
"""

from __future__ import annotations

from typing import Any

from tuning.batches import EpochBatches
from tuning.packing import rows_of
from tuning.rows import IGNORED

_LOADERS = 4


def cpu_trainer() -> Any:
    """SFTTrainer whose loss unembeds the supervised positions only.

    TRL's loss unembeds every position, in float32: on a CPU that was most of a step for rows of which one token in
    seven is supervised. The output layer is given those positions alone, so whatever a family does to its logits
    afterwards (scales them, caps them) is done to them too.
    """
    import torch
    from trl import SFTTrainer

    class CpuTrainer(SFTTrainer):  # type: ignore[misc]
        """Same rows, same loss, a fraction of the work."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            labels = inputs["labels"][:, 1:]
            supervised = labels != IGNORED
            width = inputs["labels"].shape[1]

            def select(_layer: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
                # Trained tokens before the prompt make the row longer at its start.
                return (given[0][:, -width:][:, :-1][supervised],)

            lengths = inputs["row_lengths"].tolist() if "row_lengths" in inputs else None
            positions = {"position_ids": inputs["position_ids"]} if lengths is not None else {}
            head = self.accelerator.unwrap_model(model).get_output_embeddings()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(self.args.bf16)), rows_of(lengths):
                hook = head.register_forward_pre_hook(select)
                try:
                    logits = model(input_ids=inputs["input_ids"], **positions, use_cache=False).logits
                finally:
                    hook.remove()
            wanted = labels[supervised]
            total = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="sum")
            if self.model.training:
                # TRL's own loss would have counted this
                self._count(inputs, right=(logits.argmax(-1) == wanted).sum(), supervised=supervised.sum())
            loss = total / (supervised.sum() if num_items_in_batch is None else num_items_in_batch)
            if num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes  # the count is of all processes, gradients are averaged
            return (loss, {"loss": loss.detach()}) if return_outputs else loss

        def _count(self, inputs: dict[str, Any], *, right: Any, supervised: Any) -> None:
            """What SFTTrainer's own loss would have counted: tokens without padding, supervised ones hit."""
            tokens = inputs["attention_mask"].sum() if "attention_mask" in inputs else inputs["input_ids"].numel()
            counts = torch.stack([torch.as_tensor(tokens), right, supervised])
            seen, hit, asked = self.accelerator.reduce(counts, "sum").tolist()
            self._total_train_tokens += seen
            self._metrics["train"]["num_tokens"] = [self._total_train_tokens]
            self._metrics["train"]["mean_token_accuracy"].append(hit / max(1, asked))

    return CpuTrainer


def gpu_trainer(batches: EpochBatches | None) -> Any:
    """SFTTrainer that asks the GPU for nothing between log lines.

    batches: row numbers of each part of this process; None leaves batching to TRL.
    """
    from torch.utils.data import DataLoader
    from trl import SFTTrainer

    class Batches(DataLoader[Any]):
        def set_epoch(self, epoch: int) -> None:
            assert batches is not None
            batches.set_epoch(epoch)

    class GpuTrainer(SFTTrainer):  # type: ignore[misc]
        """Counts stay on the device until they are logged."""

        _seen: list[Any] | None = None
        """Supervised tokens that were the most likely one, supervised tokens, tokens; of this process, unlogged."""

        def get_train_dataloader(self) -> Any:
            if batches is None:
                return super().get_train_dataloader()
            return Batches(
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
