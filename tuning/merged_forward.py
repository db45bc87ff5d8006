"""LoRA as one matrix product: y = x (W + s B A)^T instead of y = x W^T + s (x A^T) B^T.

The same function, and by the chain rule the same gradients for A and B. PEFT's form runs a dozen small kernels on every
token in each of 210 layers; on a GPU a 135M model then waits for launches and memory. This form touches the tokens once
and pays with a full weight gradient, which such a GPU has to spare. It also sees the rounding that a merged model has
when it serves. On a CPU, which is short of arithmetic, PEFT's form is the faster one.
"""

from __future__ import annotations

from functools import partial
from typing import Any


def use_merged_forward(model: Any, adapter: str = "default") -> int:
    """Replace the forward of every LoRA linear layer; returns how many. For adapters without dropout and bias."""
    from peft.tuners.lora import Linear

    layers = [module for module in model.modules() if isinstance(module, Linear) and adapter in module.lora_A]
    for layer in layers:
        layer.forward = partial(_forward, layer, adapter)
    return len(layers)


def _forward(layer: Any, adapter: str, x: Any, *args: Any, **kwargs: Any) -> Any:
    import torch
    from torch.nn import functional

    base = layer.get_base_layer()
    with torch.autocast(x.device.type, enabled=False):
        factors = layer.lora_B[adapter].weight.float(), layer.lora_A[adapter].weight.float()
        weight = torch.addmm(base.weight.float(), *factors, alpha=layer.scaling[adapter])
    return functional.linear(x, weight.to(base.weight.dtype), base.bias)
