"""LoRA beside a linear layer with no pass over the tokens that is not needed: for a CPU, which waits for its memory.

The same function and gradients as PEFT's. PEFT scales the adapter's output and adds it in passes of their
own, forwards and backwards; here the scale is applied at the width of the rank, and both sums are made by the product
that brings the second term.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def use_lean_forward(model: Any, adapter: str = "default") -> int:
    """Give every LoRA linear layer of `model` this forward; returns how many. For adapters without dropout and bias."""
    from peft.tuners.lora import Linear

    layers = [module for module in model.modules() if type(module) is Linear and adapter in module.lora_A]
    # DeepSpeed's ZeRO 3 gathers a weight when its own module is called, which this forward does not do.
    layers = [layer for layer in layers if not hasattr(layer.base_layer.weight, "ds_id")]
    for layer in layers:
        layer.__class__ = _lean_class()
        layer.lean_adapter = adapter
    return len(layers)


@cache
def _lean_class() -> Any:
    import torch
    from peft.tuners.lora import Linear
    from torch.nn import functional

    class LeanProduct(torch.autograd.Function):
        """x W^T + s (x A^T) B^T + b over (tokens, width)."""

        @staticmethod
        def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scale: float) -> Any:
            low_a, low_b = a.to(weight.dtype), b.to(weight.dtype)
            narrow = (x @ low_a.t()).mul_(scale)
            ctx.save_for_backward(x, weight, low_a, low_b, narrow)
            ctx.scale, ctx.kept = scale, a.dtype
            return functional.linear(x, weight, bias).addmm_(narrow, low_b.t())

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            x, weight, a, b, narrow = ctx.saved_tensors
            gradient = gradients[0]
            back = (gradient @ b).mul_(ctx.scale)
            for_x = (gradient @ weight).addmm_(back, a) if ctx.needs_input_grad[0] else None
            return for_x, None, None, (back.t() @ x).to(ctx.kept), (gradient.t() @ narrow).to(ctx.kept), None

    product: Any = LeanProduct  # torch types `apply` in some builds only

    class LeanLinear(Linear):  # type: ignore[misc]
        """PEFT's layer by `LeanProduct`."""

        lean_adapter: str

        def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
            base, name = self.base_layer, self.lean_adapter
            if self.disable_adapters or self.active_adapters != [name]:
                return super().forward(x, *args, **kwargs)  # a reference: the base alone, or another adapter
            a, b = self.lora_A[name].weight, self.lora_B[name].weight
            with torch.autocast(x.device.type, enabled=False):
                flat = x.reshape(-1, x.shape[-1]).to(base.weight.dtype)
                out = product.apply(flat, base.weight, base.bias, a, b, self.scaling[name])
            return out.view(*x.shape[:-1], out.shape[-1])

    return LeanLinear
