"""GRPO, RLOO and distillation: the model writes answers during training, and learns from what they were worth.

Prompts are handed over as the turns that serving renders; TRL renders them with the tokenizer's chat template, which is
what serving does. `encode_rows` has compared that template with the rows before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.errors import DatasetRejected
from generation.chat import ChatFormat
from tuning.attach import ADAPTER
from tuning.batches import BatchPlan
from tuning.kinds import AdapterKind
from tuning.methods.rewards import build_rewards
from tuning.methods.work import Built, Work, whole_factors
from tuning.recipe import DistillMethod, GrpoMethod, RlooMethod
from tuning.rotations import rows_alone
from tuning.rows import encode_rows
from tuning.spec import TrainRow


def build(work: Work) -> Built:
    """The trainer of an online method.

    Raises:
        DatasetRejected: the rows failed an audit, or leave no room for an answer (`rows_too_long`).
    """
    encoded = encode_rows(work.tokenizer, work.rows, max_tokens=work.recipe.batch.max_tokens)
    rows_alone(work, max(row.prompt_tokens for row in encoded) + _new_tokens(work))
    work.tokenizer.padding_side = "left"
    if isinstance(work.recipe, DistillMethod):
        return _distill(work, work.recipe)
    if isinstance(work.recipe, GrpoMethod):
        return _grouped(work, work.recipe)
    if isinstance(work.recipe, RlooMethod):
        return _grouped(work, work.recipe)
    raise TypeError(work.recipe.method)


def _new_tokens(work: Work) -> int:
    """Of the longest answer that the model may write."""
    recipe = work.recipe
    return recipe.distill.new_tokens if isinstance(recipe, DistillMethod) else recipe.online.new_tokens  # type: ignore[attr-defined]


def _grouped(work: Work, recipe: GrpoMethod | RlooMethod) -> Built:
    """GRPO and RLOO: the same rows, the same rewards, another estimator."""
    import torch
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    online = recipe.online
    chat = ChatFormat.of(work.tokenizer)
    config, kind = (GRPOConfig, GRPOTrainer) if isinstance(recipe, GrpoMethod) else (RLOOConfig, RLOOTrainer)
    prompts_a_step = max(1, recipe.batch.rows // online.answers) * work.processes
    rewards = build_rewards(
        online.rewards,
        tokenizer=work.tokenizer,
        base_path=work.base_path,
        sources=work.reward_sources,
        device=torch.device("cuda" if work.on_gpu else "cpu"),
    )
    arguments = config(
        **work.arguments(_plan(work, prompts_a_step)),
        num_generations=online.answers,
        max_completion_length=online.new_tokens,
        temperature=online.temperature,
        beta=online.beta,
        reward_weights=[reward.weight for reward in online.rewards],
        chat_template_kwargs=chat.switches or None,
    )
    attached = work.model()
    if recipe.adapter is AdapterKind.PISSA:
        attached.model.peft_config[ADAPTER].init_lora_weights = True  # the reference is a copy, not a new start
    trainer = kind(
        model=attached.model,
        args=arguments,
        reward_funcs=rewards,
        train_dataset=_prompts(chat, work.rows),
        processing_class=work.tokenizer,
    )
    if recipe.adapter is AdapterKind.BOTTLENECK and online.beta > 0:
        from generation.adapters.forms import add_activation

        add_activation(attached.model, "ref")
    whole_factors(attached, recipe.adapter)
    return Built(trainer, attached, 0)


def _distill(work: Work, recipe: DistillMethod) -> Built:
    """The student answers, and each of its tokens is compared with the teacher's distribution."""
    from transformers import AutoModelForCausalLM
    from trl import DistillationConfig, DistillationTrainer

    if work.teacher_path is None:
        raise DatasetRejected("the spec names no teacher", code="invalid_train_spec")
    _same_tokens(work)
    chat = ChatFormat.of(work.tokenizer)
    arguments = DistillationConfig(
        **work.arguments(_plan(work, recipe.batch.rows * work.processes)),
        max_completion_length=recipe.distill.new_tokens,
        temperature=recipe.distill.temperature,
        beta=recipe.distill.beta,
        chat_template_kwargs=chat.switches or None,
    )
    attached = work.model()
    trainer = DistillationTrainer(
        model=attached.model,
        teacher_model=AutoModelForCausalLM.from_pretrained(work.teacher_path, dtype=work.dtype),
        args=arguments,
        train_dataset=_prompts(chat, work.rows),
        processing_class=work.tokenizer,
    )
    whole_factors(attached, recipe.adapter)
    return Built(trainer, attached, 0)


def _plan(work: Work, prompts_a_step: int) -> BatchPlan:
    """Steps of a method whose batches are prompts and what is written to them."""
    batch = work.recipe.batch
    steps = max(1, round(-(-len(work.rows) // prompts_a_step) * batch.epochs))
    return BatchPlan(min(steps, batch.max_steps or steps))


def _prompts(chat: ChatFormat, rows: Sequence[TrainRow]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(
        [
            {
                "prompt": chat.turns(row.prompt),
                "reference": row.completion,
                "facts": list(row.facts),
                "gold": list(row.gold),
                "refusal": row.refusal,
                "passages": list(row.passages),
            }
            for row in rows
        ]
    )


def _same_tokens(work: Work) -> None:
    """A teacher that numbers its tokens otherwise would correct every word into another."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(work.teacher_path)
    if theirs.get_vocab() != work.tokenizer.get_vocab():
        raise DatasetRejected("the teacher has another vocabulary than the base", code="teacher_unsuitable")
