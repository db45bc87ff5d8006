"""Supervised fine-tuning: loss on the answer and its stop token, nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuning.batches import in_order, plan_batches
from tuning.methods.work import Built, Work, whole_factors
from tuning.packing import use_packing
from tuning.rotations import forget_before_each_row, rows_alone
from tuning.rows import EncodedRow, encode_rows, histogram
from tuning.trainers import cpu_trainer, gpu_trainer


def build(work: Work) -> Built:
    """TRL's SFTTrainer over pre-tokenised rows.

    Raises:
        DatasetRejected: the rows failed an audit.
    """
    from trl import SFTConfig

    batch = work.recipe.batch
    rows = encode_rows(work.tokenizer, work.rows, max_tokens=batch.max_tokens)
    eval_rows = None
    if work.eval_rows is not None:
        eval_rows = encode_rows(work.tokenizer, work.eval_rows, max_tokens=batch.max_tokens)
    work = rows_alone(work, max(len(row.input_ids) for row in [*rows, *(eval_rows or ())]))
    batch = work.recipe.batch
    plan = plan_batches(
        batch,
        [len(row.input_ids) for row in rows],
        by_tokens=work.on_gpu,
        processes=work.processes,
        rank=work.rank,
        seed=work.seed,
    )
    arguments = SFTConfig(
        **work.arguments(plan),
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    attached = work.model()
    trainer = in_order(gpu_trainer(plan.batches) if work.on_gpu else cpu_trainer(), plan.order)(
        model=attached.model,
        args=arguments,
        train_dataset=_as_dataset(rows),
        eval_dataset=_as_dataset(eval_rows) if eval_rows is not None else None,
        processing_class=work.tokenizer,
    )
    whole_factors(attached, work.recipe.adapter)
    forget_before_each_row(attached.model)
    padded = "on a GPU rows of like length are beneath one another" if work.on_gpu else None
    if not work.on_gpu:
        padded = use_packing(trainer, batch.packing, work.recipe.adapter)
    return Built(trainer, attached, sum(row.supervised_tokens for row in rows), histogram(rows), padded=padded)


def _as_dataset(rows: Sequence[EncodedRow]) -> Any:
    """An Arrow table built from whole arrays: through Python lists, 100 million tokens take minutes and gigabytes."""
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    offsets = pa.array(np.cumsum([0, *(len(row.input_ids) for row in rows)]), type=pa.int64())
    columns = {
        "input_ids": np.concatenate([row.input_ids for row in rows]),
        "labels": np.concatenate([row.labels for row in rows]),
    }
    lists = {name: pa.LargeListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}
    return Dataset(pa.table(lists)).with_format("numpy")
