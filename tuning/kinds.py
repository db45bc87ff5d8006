"""The closed sets of tuning: methods and kinds of adapter. Imports nothing heavy.

What is served of them is said by `generation.engines.capability`. A request for what cannot be served is refused before
compute, or trained on request for export: an artefact of the run that is downloaded and never promoted.
"""

from __future__ import annotations

from enum import StrEnum

from tuning.datasets.formats import DatasetFormat


class AdapterKind(StrEnum):
    """What is trained."""

    LORA = "lora"
    RSLORA = "rslora"
    """LoRA scaled by 1/sqrt(rank)."""
    DORA = "dora"
    """LoRA for the direction of a weight's rows, and a trained magnitude of each row."""
    PISSA = "pissa"
    """LoRA that starts from the largest singular vectors of the weight; written as plain LoRA of twice the rank."""
    QLORA = "qlora"
    """LoRA over a base in 4 bits (NF4); the adapter itself is plain LoRA and serves over the whole base."""
    PREFIX = "prefix"
    """Trained keys and values before the prompt, in every layer."""
    PROMPT = "prompt"
    """Trained embeddings before the prompt."""
    BOTTLENECK = "bottleneck"
    """Parallel bottleneck adapters (He et al. 2022): up(relu(down(x))) beside each target layer."""
    FULL = "full"
    """Every weight matrix of the decoder layers; the change is written as LoRA by truncated SVD."""


class Method(StrEnum):
    """How it is trained."""

    SFT = "sft"
    DPO = "dpo"
    KTO = "kto"
    ORPO = "orpo"
    REWARD = "reward"
    """A reward model: scores answers for GRPO and RLOO, and never serves."""
    GRPO = "grpo"
    RLOO = "rloo"
    DISTILL = "distill"
    """The student's own answers, corrected token by token by a larger model of the same tokenizer."""
    MERGE = "merge"
    """No training: one adapter out of several versions."""
    STAGED = "staged"
    """Other methods one after another, each from the adapter of the one before."""

    @property
    def online(self) -> bool:
        """Whether the model writes answers during training."""
        return self in {Method.GRPO, Method.RLOO, Method.DISTILL}

    @property
    def formats(self) -> frozenset[DatasetFormat]:
        """Dataset formats that the method learns from; those of a staged recipe are those of its stages."""
        if self in {Method.DPO, Method.ORPO, Method.REWARD}:
            return _PAIRS
        if self is Method.KTO:
            return _PAIRS | {DatasetFormat.UNPAIRED}
        return _ANSWERS


_PAIRS = frozenset({DatasetFormat.PREFERENCE})
_ANSWERS = frozenset(shape for shape in DatasetFormat if shape.supervised)


LORA_KINDS = frozenset({AdapterKind.LORA, AdapterKind.RSLORA, AdapterKind.DORA, AdapterKind.PISSA, AdapterKind.QLORA})
"""Kinds that PEFT trains as LoRA layers."""
VIRTUAL_KINDS = frozenset({AdapterKind.PREFIX, AdapterKind.PROMPT})
CONVERTED_KINDS = frozenset({AdapterKind.PISSA, AdapterKind.FULL})
"""Kinds whose written form is not the trained one: they cannot be trained on from what was written."""
