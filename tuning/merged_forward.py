"""LoRA as one matrix product: y = x (W + s B A)^T instead of y = x W^T + s (x A^T) B^T.

The same function, and by the chain rule the same gradients for A and B. PEFT's form runs a dozen small kernels on every
token in each of 210 layers; on a GPU a 135M model then waits for launches and memory. This form touches the tokens once
and pays with a full weight gradient, which such a GPU has to spare. It also sees the rounding that a merged model has
when it serves. On a CPU, which is short of arithmetic, and for wide layers, PEFT's form is the faster one.
"""

from __future__ import annotations

from functools import cache
from typing import Any

WIDEST = 2048
"""Widest input of a layer that takes this form: the weight gradient adds half of a step's arithmetic, PEFT's kernels
add memory traffic that does not grow with the width of the layer."""


def use_merged_forward(model: Any, adapter: str = "default") -> int:
    """Give every LoRA linear layer of `model` this forward; returns how many. For adapters without dropout and bias."""
    from peft.tuners.lora import Linear

    layers = [module for module in model.modules() if type(module) is Linear and adapter in module.lora_A]
    # DeepSpeed's ZeRO 3 gathers a weight when its own module is called, which this forward does not do.
    layers = [layer for layer in layers if not hasattr(layer.base_layer.weight, "ds_id")]
    for layer in layers:
        # The class changes, not the instance's `forward`: a compiler then sees one method for all layers, and one
        # compilation serves them.
        layer.__class__ = _merged_class()
        layer.merged_adapter = adapter
    return len(layers)


@cache
def _merged_class() -> Any:
    import torch
    from peft.tuners.lora import Linear
    from torch.nn import functional

    class MergedLinear(Linear):  # type: ignore[misc]
        """PEFT's layer with the sum of weights in front of the product."""

        merged_adapter: str

        def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
            base, name = self.base_layer, self.merged_adapter
            if self.disable_adapters or self.active_adapters != [name]:
                return super().forward(x, *args, **kwargs)  # a reference: the base alone, or another adapter
            with torch.autocast(x.device.type, enabled=False):
                factors = self.lora_B[name].weight.float(), self.lora_A[name].weight.float()
                weight = torch.addmm(base.weight.float(), *factors, alpha=self.scaling[name])
            return functional.linear(x, weight.to(base.weight.dtype), base.bias)

    return MergedLinear
