"""What an engine decoded, number by number: the tokens of each answer and the log-probabilities they came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from core.types import GenerationRequest
from generation.engines.batch import Row
from generation.engines.transformers_engine import TransformersEngine


@dataclass
class Decoded:
    """One answer."""

    prompt: list[int]
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    scores: list[torch.Tensor] = field(default_factory=list)
    """Log-probabilities of the whole vocabulary before each token, float32."""


def decode(engine: TransformersEngine, requests: Sequence[GenerationRequest]) -> list[Decoded]:
    """Ask for all at once, and watch either loop."""
    batch: Any = engine._batch
    rows: dict[int, Decoded] = {}
    order: list[Row] = []
    watched = "_launch" if hasattr(batch, "_launch") else "_choose"
    add, accept, choose = batch.add, batch._accept, getattr(batch, watched)

    def note(row: Row, logits: torch.Tensor) -> None:
        rows[id(row)].scores.append(torch.log_softmax(logits.float(), dim=-1).cpu().clone())

    def watch_add(row: Row) -> None:
        rows[id(row)] = Decoded(list(row.prompt))
        order.append(row)
        add(row)

    def watch_accept(row: Row, token: int) -> None:
        if not row.handle.done:
            rows[id(row)].tokens.append(token)
        accept(row, token)

    def watch_launch(seated: Any, best: Any, logits: torch.Tensor) -> None:
        for one, scores in zip(seated, logits, strict=True):
            note(one.row, scores)
        choose(seated, best, logits)

    def watch_choose(chosen: list[Row], logits: torch.Tensor) -> Any:
        for row, scores in zip(chosen, logits, strict=True):
            note(row, scores)
        return choose(chosen, logits)

    patched = {"add": watch_add, "_accept": watch_accept}
    patched[watched] = watch_launch if watched == "_launch" else watch_choose
    for name, function in patched.items():
        setattr(batch, name, function)
    try:
        handles = [engine.submit(request) for request in requests]
        texts = {id(handle): handle.result().text for handle in handles}
    finally:
        for name in patched:
            delattr(batch, name)
    found = {id(row.handle): rows[id(row)] for row in order}
    for number, text in texts.items():
        found[number].text = text
        del found[number].scores[len(found[number].tokens) :]  # a step behind, one more may have been started
    return [found[id(handle)] for handle in handles]


@torch.no_grad()
def forced(model: Any, decoded: Decoded) -> torch.Tensor:
    """Log-probabilities before each token by the model's own forward pass over prompt and answer at once."""
    ids = torch.tensor([decoded.prompt + decoded.tokens[:-1]])
    logits = model(input_ids=ids).logits[0, len(decoded.prompt) - 1 :]
    return torch.log_softmax(logits.float(), dim=-1)


def assert_follows(model: Any, decoded: Decoded, tolerance: float = 1e-4) -> None:
    """The answer is the model's greedy one, with its log-probabilities."""
    wanted = forced(model, decoded)
    torch.testing.assert_close(torch.stack(decoded.scores), wanted, atol=tolerance, rtol=0)
    assert decoded.tokens == wanted.argmax(-1).tolist()
