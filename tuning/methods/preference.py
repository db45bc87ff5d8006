"""DPO, KTO, ORPO and reward models: learning from what was preferred.

TRL would render and tokenise rows by itself. Here its trainers are given our own token ids, the ones that serving
feeds, after the same audit as for supervised rows: both halves of a pair pass it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from tuning.attach import ADAPTER, Attached
from tuning.batches import BatchPlan, in_order, plan_batches
from tuning.kinds import AdapterKind
from tuning.methods.work import Built, Work, whole_factors
from tuning.recipe import DpoMethod, KtoMethod, OrpoMethod, RewardMethod
from tuning.rotations import rows_alone
from tuning.rows import EncodedRow, encode_rows, histogram
from tuning.spec import TrainRow

Pair = tuple[EncodedRow, EncodedRow]


def build(work: Work) -> Built:
    """The trainer of a preference method.

    Raises:
        DatasetRejected: the rows failed an audit.
    """
    if isinstance(work.recipe, KtoMethod):
        return _kto(work, work.recipe)
    pairs = _encode_pairs(work, work.rows)
    eval_pairs = _encode_pairs(work, work.eval_rows) if work.eval_rows is not None else None
    lengths = [max(len(chosen.input_ids), len(rejected.input_ids)) for chosen, rejected in pairs]
    plan = _even(work, lengths)
    rows_alone(work, max(lengths))
    if isinstance(work.recipe, DpoMethod):
        trainer, attached = _dpo(work, work.recipe, plan, pairs, eval_pairs)
    elif isinstance(work.recipe, OrpoMethod):
        trainer, attached = _orpo(work, work.recipe, plan, pairs, eval_pairs)
    elif isinstance(work.recipe, RewardMethod):
        trainer, attached = _reward(work, work.recipe, plan, pairs, eval_pairs)
    else:
        raise TypeError(work.recipe.method)
    whole_factors(attached, work.recipe.adapter)
    both = [row for pair in pairs for row in pair]
    return Built(trainer, attached, sum(row.supervised_tokens for row in both), histogram(both))


def _even(work: Work, lengths: Sequence[int]) -> BatchPlan:
    """Batches by rows: a pair is two rows of one part, so `batch.tokens` does not bound it."""
    return plan_batches(
        work.recipe.batch, lengths, by_tokens=False, processes=work.processes, rank=work.rank, seed=work.seed
    )


def _encode_pairs(work: Work, rows: Sequence[TrainRow]) -> list[Pair]:
    limit = work.recipe.batch.max_tokens
    worse = [row.model_copy(update={"completion": row.rejected}) for row in rows]
    chosen = encode_rows(work.tokenizer, rows, max_tokens=limit)
    return list(zip(chosen, encode_rows(work.tokenizer, worse, max_tokens=limit), strict=True))


def _model_for_reference(work: Work) -> Attached:
    """The model as DPO and KTO take it: they copy its adapter as it stands, as the reference.

    A copy of PiSSA's factors must not decompose the base again, so it is made as a plain one and then filled.
    """
    attached = work.model()
    if work.recipe.adapter is AdapterKind.PISSA:
        attached.model.peft_config[ADAPTER].init_lora_weights = True
    return attached


def _activate_reference(attached: Attached, kind: AdapterKind) -> None:
    from generation.adapters.forms import add_activation

    if kind is AdapterKind.BOTTLENECK:
        add_activation(attached.model, "ref")


def _dpo(
    work: Work, recipe: DpoMethod, plan: BatchPlan, pairs: Sequence[Pair], eval_pairs: Sequence[Pair] | None
) -> tuple[Any, Attached]:
    from trl import DPOConfig, DPOTrainer

    class OwnRows(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    arguments = DPOConfig(
        **work.arguments(plan),
        beta=recipe.dpo.beta,
        loss_type=[recipe.dpo.loss],
        label_smoothing=recipe.dpo.label_smoothing,
        max_length=None,
    )
    attached = _model_for_reference(work)
    trainer = in_order(OwnRows, plan.order)(
        model=attached.model,
        args=arguments,
        train_dataset=_as_dataset([_prompt_and_pair(pair) for pair in pairs]),
        eval_dataset=_as_dataset([_prompt_and_pair(pair) for pair in eval_pairs]) if eval_pairs is not None else None,
        processing_class=work.tokenizer,
    )
    _activate_reference(attached, recipe.adapter)
    return trainer, attached


def _orpo(
    work: Work, recipe: OrpoMethod, plan: BatchPlan, pairs: Sequence[Pair], eval_pairs: Sequence[Pair] | None
) -> tuple[Any, Attached]:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    class OwnRows(ORPOTrainer):  # type: ignore[misc]
        def tokenize_row(self, feature: Any, model: Any = None) -> dict[str, list[int]]:
            row: dict[str, list[int]] = {}
            for half in ("chosen", "rejected"):
                row[f"{half}_input_ids"] = feature["prompt_ids"] + feature[f"{half}_ids"]
                row[f"{half}_labels"] = [-100] * len(feature["prompt_ids"]) + feature[f"{half}_ids"]
                row[f"{half}_attention_mask"] = [1] * len(row[f"{half}_input_ids"])
            return {
                **row,
                "prompt_input_ids": feature["prompt_ids"],
                "prompt_attention_mask": [1] * len(feature["prompt_ids"]),
            }

    arguments = ORPOConfig(**work.arguments(plan), beta=recipe.orpo.beta, max_length=recipe.batch.max_tokens)
    attached = work.model()
    texts = {"prompt": "", "chosen": "", "rejected": ""}
    """Columns that TRL's own preparation looks for before it asks `tokenize_row`."""
    trainer = in_order(OwnRows, plan.order)(
        model=attached.model,
        args=arguments,
        train_dataset=_as_dataset([texts | _prompt_and_pair(pair) for pair in pairs]),
        eval_dataset=(
            _as_dataset([texts | _prompt_and_pair(pair) for pair in eval_pairs]) if eval_pairs is not None else None
        ),
        processing_class=work.tokenizer,
    )
    return trainer, attached


def _reward(
    work: Work, recipe: RewardMethod, plan: BatchPlan, pairs: Sequence[Pair], eval_pairs: Sequence[Pair] | None
) -> tuple[Any, Attached]:
    from trl import RewardConfig, RewardTrainer

    # Pairs are evaluated one by one: TRL takes the mean over batches, in which a smaller last one would count for more.
    values = {**work.arguments(plan), "per_device_eval_batch_size": 1}
    arguments = RewardConfig(**values, center_rewards_coefficient=recipe.reward.centring, max_length=None)
    attached = work.model()
    trainer = in_order(RewardTrainer, plan.order)(
        model=attached.model,
        args=arguments,
        train_dataset=_as_dataset([_whole_pair(pair) for pair in pairs]),
        eval_dataset=_as_dataset([_whole_pair(pair) for pair in eval_pairs]) if eval_pairs is not None else None,
        processing_class=work.tokenizer,
    )
    return trainer, attached


def _kto(work: Work, recipe: KtoMethod) -> Built:
    from torch.utils.data import RandomSampler
    from trl import KTOConfig, KTOTrainer

    class OwnRows(KTOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            # TRL keeps the order of rows, whose neighbours it pairs; ours are paired, and each pass may mix them anew.
            return RandomSampler(self.train_dataset if train_dataset is None else train_dataset)

    rows = encode_rows(work.tokenizer, work.rows, max_tokens=recipe.batch.max_tokens)
    lengths = [len(row.input_ids) for row in rows]
    rows_alone(work, max(lengths))
    plan = BatchPlan(_even(work, lengths).steps)
    data = _judged_rows(rows, work.rows, work.seed)
    eval_data = None
    if work.eval_rows is not None:
        encoded = encode_rows(work.tokenizer, work.eval_rows, max_tokens=recipe.batch.max_tokens)
        eval_data = _as_dataset(_judged_rows(encoded, work.eval_rows, work.seed))
    arguments = KTOConfig(
        **{**work.arguments(plan), "train_sampling_strategy": "sequential"},  # TRL refuses another; see the sampler
        beta=recipe.kto.beta,
        desirable_weight=recipe.kto.desirable_weight,
        undesirable_weight=recipe.kto.undesirable_weight,
        max_length=None,
    )
    attached = _model_for_reference(work)
    trainer = OwnRows(
        model=attached.model,
        args=arguments,
        train_dataset=_as_dataset(data),
        eval_dataset=eval_data,
        processing_class=work.tokenizer,
    )
    _activate_reference(attached, recipe.adapter)
    whole_factors(attached, recipe.adapter)
    return Built(trainer, attached, sum(row.supervised_tokens for row in rows), histogram(rows))


def _judged_rows(encoded: Sequence[EncodedRow], rows: Sequence[TrainRow], seed: int) -> list[dict[str, Any]]:
    """Rows of KTO; the divergence from the reference is estimated on each prompt with another row's answer.

    The other row is the next in a drawn order: one from the same part, as TRL takes it, would be the row itself where
    the last part of a pass has one row only.
    """
    order = list(range(len(encoded)))
    random.Random(seed).shuffle(order)
    split = [_split(row) for row in encoded]
    other = {one: split[next_][1] for one, next_ in zip(order, order[1:] + order[:1], strict=True)}
    return [
        {"prompt_ids": split[at][0], "completion_ids": split[at][1], "KL_completion_ids": other[at], "label": row.label}
        for at, row in enumerate(rows)
    ]


def _split(row: EncodedRow) -> tuple[list[int], list[int]]:
    ids = row.input_ids.tolist()
    return ids[: row.prompt_tokens], ids[row.prompt_tokens :]


def _prompt_and_pair(pair: Pair) -> dict[str, Any]:
    prompt, chosen = _split(pair[0])
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": _split(pair[1])[1]}


def _whole_pair(pair: Pair) -> dict[str, Any]:
    return {"chosen_ids": pair[0].input_ids.tolist(), "rejected_ids": pair[1].input_ids.tolist()}


def _as_dataset(rows: Sequence[dict[str, Any]]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(list(rows))
