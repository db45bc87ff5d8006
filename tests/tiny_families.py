"""Random checkpoints of eight model families, tens of thousands of parameters each, that take turns as those do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.family_chat import CHATS, family_tokenizer

_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "mistral": ("Mistral", {"sliding_window": 64}),
    "mixtral": ("Mixtral", _EXPERTS),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "gemma": ("Gemma", {"head_dim": 8}),
    "gemma2": ("Gemma2", {"head_dim": 8, "sliding_window": 64, "final_logit_softcapping": 5.0}),
    "deepseek-v3": ("DeepseekV3", _LATENT),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", {"sliding_window": None}),
    "cohere": ("Cohere", {"logit_scale": 0.25}),
}
"""Name: prefix of the transformers classes, and what its configuration needs beside the common sizes."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama3-rope": (
        "Llama",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "mistral-full": ("Mistral", {"sliding_window": None}),
    "mistral-wide": ("Mistral", {"sliding_window": 512, "head_dim": 16}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-mixed": ("Qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}),
    "qwen3-wide": ("Qwen3", {"head_dim": 16}),
}
"""What decoding meets beside those: biases, norms of queries and keys that act, wider heads, stretched rotation."""


def build_tiny(family: str, folder: Path) -> None:
    """Write model and tokenizer; the same bytes each time.

    The generation configuration names the end of a text alone, as the first Gemma's and Llama 3's did: where answers
    end is for the template to say.
    """
    import torch
    import transformers

    prefix, extra = {**FAMILIES, **VARIANTS}[family]
    chat = family if family in CHATS else {"Llama": "llama", "Mistral": "mistral"}.get(prefix, "qwen3")
    tokenizer = family_tokenizer(chat)
    torch.manual_seed(5)
    config = getattr(transformers, f"{prefix}Config")(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **{**_SIZES, **extra},
    )
    model = getattr(transformers, f"{prefix}ForCausalLM")(config)
    if family in VARIANTS:  # biases start at zero and norms at one, where nothing would show that they are missing
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
