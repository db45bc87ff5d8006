"""A random Llama of any size made in memory, with a tokenizer as large as its vocabulary, and random adapters for it.

Speed does not depend on what the weights say, so nothing has to be downloaded or written: of the base there is only
the header of a safetensors file, which is what adapters are checked against.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import torch

from core.types import AdapterRef
from generation.adapters.manifest import build_manifest, write_manifest
from generation.models import BaseModelInfo

SIZES: dict[str, dict[str, int]] = {
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 4096,
    },
}
"""The shape of Llama 3.1 8B, and one that a test can afford."""
_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<{{ message['content'] }}>"
    "{% else %}{{ message['content'] }}{% endif %}{% endfor %}"
)
"""A question is as many tokens as it has bytes."""


def build_model(size: str, dtype: torch.dtype, device: torch.device) -> Any:
    """Random weights, drawn on the device; it never stops by itself."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **SIZES[size],
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: Any = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.generation_config.eos_token_id = None
    return model.eval()


def build_tokenizer(vocabulary: int) -> Any:
    """One token per byte for prompts, and an invented word for every other id, so that any token makes text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols += [f"Ġw{number}" for number in range(vocabulary - len(symbols))]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: at for at, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = _TEMPLATE
    return fast


def describe(size: str, model: Any, folder: Path) -> BaseModelInfo:
    """The base as adapters are checked against it: the header of its weights, and digests of its name."""
    entries = {
        name: {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [0, 0]}
        for name, tensor in model.state_dict().items()
    }
    header = json.dumps(entries).encode()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    digest = hashlib.sha256(f"random-{size}".encode()).hexdigest()
    return BaseModelInfo(folder, f"random-llama-{size}", digest, digest, digest)


def save_adapter(model: Any, base: BaseModelInfo, folder: Path, seed: int, *, rank: int = 16) -> AdapterRef:
    """A LoRA of random weights on all linear layers, drawn on the model's device."""
    from safetensors.torch import save_file

    source = torch.Generator(model.device).manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear) or name == "lm_head":
            continue
        for side, shape in (("A", (rank, module.in_features)), ("B", (module.out_features, rank))):
            noise = torch.randn(shape, generator=source, device=model.device, dtype=torch.float32) * 0.02
            tensors[f"base_model.model.{name}.lora_{side}.weight"] = noise.to(model.dtype).cpu()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({name.rsplit(".", 3)[-3] for name in tensors})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_modules": targets}), "utf-8")
    manifest = build_manifest(folder, base)
    write_manifest(folder, manifest)
    return AdapterRef("random", folder.name, manifest.content_digest, str(folder))


def merged(model: Any, adapter: AdapterRef) -> Any:
    """A copy of the model with an adapter added into its weights: what the adapter has to say, without an engine."""
    import copy

    from safetensors.torch import load_file

    config = json.loads((Path(adapter.path) / "adapter_config.json").read_text("utf-8"))
    tensors = load_file(Path(adapter.path) / "adapter_model.safetensors")
    model = copy.deepcopy(model)
    for name, down in tensors.items():
        if ".lora_A." in name:
            up = tensors[name.replace(".lora_A.", ".lora_B.")]
            module = model.get_submodule(name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"))
            delta = (up.float() @ down.float()) * (config["lora_alpha"] / config["r"])
            module.weight.data += delta.to(module.weight.device, module.weight.dtype)
    return model
