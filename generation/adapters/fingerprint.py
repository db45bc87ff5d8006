"""What an adapter does to the next-token logits of fixed prompts: proof at load that it acts, and is the right one.

Digests prove that the files are right; they do not prove that the weights reached the layers. An adapter whose module
names miss is loaded without a word by most servers and answers as the base. So every load measures the shift of the
logits and compares it with the one recorded at registration.

Arithmetic is float32 whatever the engine runs in: layer by layer the weights are widened and put back (exact both
ways), so the measurement differs between machines and dtypes by rounding of the adapter alone, under one percent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from core.errors import AdapterRefused
from generation.adapters.forms import load_adapter
from generation.adapters.manifest import Fingerprint, ProbeFingerprint
from generation.adapters.probes import NO_EFFECT, PROBES, PROBES_VERSION, TOKENS_PER_PROBE

TOLERANCE = 0.1
"""Relative distance over which two fingerprints differ. A dead adapter has 1.0, an unrelated one about 1.4."""


def probe_ids(tokenizer: Any) -> list[list[int]]:
    """Token ids of the probes."""
    return [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in PROBES]


@contextmanager
def widened(model: Any) -> Iterator[None]:
    """Run forward passes in float32, holding one widened layer at a time; a float32 model is left alone."""
    dtype = next(model.parameters()).dtype
    if dtype == torch.float32:
        yield
        return
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner = causal.get_decoder() if hasattr(causal, "get_decoder") else causal.model
    parts = [inner.embed_tokens, *inner.layers, inner.norm, causal.lm_head]
    hooks = []
    for part in parts:
        hooks.append(part.register_forward_pre_hook(lambda module, _args: _cast(module, torch.float32)))
        hooks.append(part.register_forward_hook(lambda module, _args, _out: _cast(module, dtype), always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _cast(module: Any, dtype: torch.dtype) -> None:
    module.to(dtype)


def probe_logits(forward: Callable[[torch.Tensor], torch.Tensor], ids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Logits after the last token of each probe, less their mean: float32 on the CPU, one row per probe.

    forward: token ids (1, n) to logits whose last row is that of the last token.
    """
    rows = [forward(torch.tensor([list(probe)]))[0, -1].float().cpu() for probe in ids]
    return [row - row.mean() for row in rows]


def probe_batch(model: Any, ids: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """The same in one forward pass: in a causal model, padding on the right reaches no token that is looked at."""
    width = max(len(probe) for probe in ids)
    tokens = torch.tensor([[*probe, *[0] * (width - len(probe))] for probe in ids], device=model.device)
    ends = torch.tensor([len(probe) - 1 for probe in ids], device=model.device)
    logits = model(input_ids=tokens, use_cache=False, logits_to_keep=ends).logits.float().cpu()
    rows = [logits[row, row] for row in range(len(ids))]
    return [row - row.mean() for row in rows]


def make_fingerprint(base: Sequence[torch.Tensor], adapted: Sequence[torch.Tensor]) -> Fingerprint:
    """Fingerprint from the probe logits without and with the adapter.

    Raises:
        AdapterRefused: it shifts nothing (`adapter_no_effect`), or a logit is not finite (`adapter_not_finite`).
    """
    probes = []
    largest = 0.0
    for before, after in zip(base, adapted, strict=True):
        shift = after - before
        if not bool(torch.isfinite(shift).all()):
            raise AdapterRefused("the adapter gives logits that are not finite", code="adapter_not_finite")
        count = min(TOKENS_PER_PROBE, shift.numel())
        ids = torch.topk(shift.abs(), count).indices
        largest = max(largest, float(shift.abs().max()))
        told = (after - after.logsumexp(-1)) - (before - before.logsumexp(-1))
        probes.append(
            ProbeFingerprint(
                token_ids=ids.tolist(),
                shifts=[round(v, 5) for v in shift[ids].tolist()],
                logprob_shifts=[round(v, 5) for v in told[ids].tolist()],
            )
        )
    if largest < NO_EFFECT:
        raise AdapterRefused(f"the adapter changes no logit by more than {largest:.1e}", code="adapter_no_effect")
    return Fingerprint(probes=probes, probes_version=PROBES_VERSION)


def compare(expected: Fingerprint, base: Sequence[torch.Tensor], adapted: Sequence[torch.Tensor]) -> float:
    """Relative distance between the recorded shifts and the ones measured now: 0 is equal.

    Raises:
        AdapterRefused: over TOLERANCE (`adapter_fingerprint_mismatch`), or no effect at all (`adapter_no_effect`).
    """
    make_fingerprint(base, adapted)
    if expected.probes_version != PROBES_VERSION or len(expected.probes) != len(base):
        raise AdapterRefused("the fingerprint is of other probes", code="adapter_fingerprint_mismatch")
    squared, scale = 0.0, 0.0
    for probe, before, after in zip(expected.probes, base, adapted, strict=True):
        if not probe.token_ids or max(probe.token_ids) >= before.numel() or min(probe.token_ids) < 0:
            raise AdapterRefused("the fingerprint is of another vocabulary", code="adapter_fingerprint_mismatch")
        wanted = torch.tensor(probe.shifts)
        found = (after - before)[torch.tensor(probe.token_ids)]
        squared += float(((found - wanted) ** 2).sum())
        scale += float((wanted**2).sum())
    distance = (squared / scale) ** 0.5 if scale > 0 else float("inf")
    if not distance <= TOLERANCE:
        raise AdapterRefused(
            f"the adapter acts otherwise than when it was registered (distance {distance:.2f})",
            code="adapter_fingerprint_mismatch",
            extra={"distance": distance},
        )
    return distance


def measure_adapter(base_path: Path, folder: Path) -> Fingerprint:
    """Load base and adapter on the CPU and fingerprint the adapter: for processes that run no engine (about 5 s)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_path)
    ids = probe_ids(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(base_path, dtype=torch.float32).eval()
    with torch.inference_mode():
        base = probe_batch(model, ids)
    adapted_model = load_adapter(model, folder, "default").eval()
    with torch.inference_mode():
        adapted = probe_batch(adapted_model, ids)
    return make_fingerprint(base, adapted)


def main() -> None:
    """Print the fingerprint of an adapter as JSON: `python -m generation.adapters.fingerprint BASE ADAPTER`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("adapter", type=Path)
    arguments = parser.parse_args()
    try:
        sys.stdout.write(measure_adapter(arguments.base, arguments.adapter).model_dump_json() + "\n")
    except AdapterRefused as error:
        sys.stderr.write(f"{error.code}: {error.detail}\n")
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
