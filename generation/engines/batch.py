"""The running batch: rows that decode together, and at most one newcomer that is being prefilled.

Rows sit in the first slots of the cache, in the order of `rows`; the newcomer, while its prompt is being read, is the
last. Only the engine's thread calls this module.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from core.errors import InvalidInput
from core.inference_imports import take_whole_torch
from core.types import GenerationRequest
from generation.engines.adapter_bank import AdapterBank
from generation.engines.cache import SlotCache
from generation.engines.grammar import TokenGrammar
from generation.engines.handle import StreamHandle
from generation.engines.masks import Mask, Masks
from generation.engines.rotation import depends_on_length, forget_lengths
from generation.engines.text import Detokenizer, ShownText

PREFILL_TOKENS_CPU = 512
PREFILL_TOKENS_CUDA = 4096
"""Prompt tokens read between two decode steps: how long running streams may pause for a newcomer."""


@dataclass(slots=True)
class Row:
    """One generation: what was asked, how far it is."""

    request: GenerationRequest
    handle: StreamHandle
    key: str
    prompt: list[int]
    stop_ids: frozenset[int]
    detokenizer: Detokenizer
    stops: ShownText
    read: int = 0
    """Prompt tokens whose keys and values are in the cache."""
    last_token: int = -1
    generated: int = 0
    random: torch.Generator | None = field(default=None, repr=False)
    grammar: TokenGrammar | None = field(default=None, repr=False)
    """What the answer may look like; None: anything."""

    @property
    def prefilled(self) -> bool:
        """Whether the whole prompt was read."""
        return self.read == len(self.prompt)

    @property
    def column(self) -> int:
        """Cache column that `last_token` will be written to."""
        return len(self.prompt) + self.generated - 1

    @property
    def most_columns(self) -> int:
        """Columns it may come to need."""
        return len(self.prompt) + self.request.max_tokens


class Batch:
    """Rows, their cache, and one step of work on them."""

    def __init__(self, model: Any, bank: AdapterBank, *, token_budget: int) -> None:
        """token_budget: bound on slots times columns, so that one long sequence cannot multiply with all slots."""
        self._model = model
        self._bank = bank
        self._budget = token_budget
        self._cache = SlotCache(model.config, model.dtype, model.device)
        self._masks = Masks(model)
        self._piece = PREFILL_TOKENS_CUDA if model.device.type == "cuda" else PREFILL_TOKENS_CPU
        self._alone = depends_on_length(model.config)
        self.rows: list[Row] = []

    def fits(self, row: Row) -> bool:
        """Whether there is room now: no other newcomer, and memory for the batch with it."""
        if self.rows and (self._alone or not self.rows[-1].prefilled):
            return False
        longest = max([row.most_columns, *(other.most_columns for other in self.rows)])
        return not self.rows or (len(self.rows) + 1) * longest <= self._budget

    def add(self, row: Row) -> None:
        """Take a newcomer; `fits` must have said yes."""
        request = row.request
        if request.temperature > 0:
            take_whole_torch()
            row.random = torch.Generator()
            if request.seed is None:
                row.random.seed()
            else:
                row.random.manual_seed(request.seed)
        if self._alone:
            forget_lengths(self._model)
        self.rows.append(row)

    @torch.inference_mode()
    def step(self) -> None:
        """Read a piece of the newcomer's prompt, then decode one token of every other row."""
        if not self.rows:
            return
        newcomer = self.rows[-1] if not self.rows[-1].prefilled else None
        ready = self.rows[:-1] if newcomer else list(self.rows)
        if newcomer:
            self._prefill(newcomer, slot=len(ready))
        if ready:
            self._decode(ready)
        self._sweep()

    @torch.inference_mode()
    def drop_cancelled(self) -> None:
        """End the rows whose callers gave up."""
        for row in self.rows:
            if row.handle.cancelled and not row.handle.done:
                row.handle.push(row.stops.finish())
                row.handle.finish("cancelled", row.generated)
        self._sweep()

    @torch.inference_mode()
    def fail(self, error: BaseException) -> None:
        """End all rows with an error."""
        for row in self.rows:
            if not row.handle.done:
                row.handle.fail(error)
        self.rows = []
        self._cache.release()

    def _prefill(self, row: Row, slot: int) -> None:
        piece = row.prompt[row.read :] if self._alone else row.prompt[row.read : row.read + self._piece]
        stop = row.read + len(piece)
        self._cache.reserve(slot + 1, stop + 1, used=len(self.rows))
        self._cache.aim_prefill(slot, row.read, len(piece))
        device = self._model.device
        mask: Mask = None
        if row.read:
            mask = self._masks.make(torch.arange(row.read, stop, device=device)[None], stop)
        logits = self._forward([piece], [list(range(row.read, stop))], mask, [row.key])
        row.read = stop
        if row.prefilled:
            self._accept(row, self._choose([row], logits)[0])

    def _decode(self, rows: list[Row]) -> None:
        columns = [row.column for row in rows]
        self._cache.reserve(len(rows), max(columns) + 1, used=len(self.rows))
        places = self._cache.aim_decode(columns)
        mask = None if places is None else self._masks.make(places[:, None], max(columns) + 1)
        logits = self._forward([[row.last_token] for row in rows], [[c] for c in columns], mask, [r.key for r in rows])
        for row, token in zip(rows, self._choose(rows, logits), strict=True):
            self._accept(row, token)

    def _forward(self, ids: list[list[int]], positions: list[list[int]], mask: Mask, keys: list[str]) -> torch.Tensor:
        """Logits after the last token of each row: (rows, vocabulary)."""
        device = self._model.device
        with self._bank.routed(keys):
            output = self._model(
                input_ids=torch.tensor(ids, device=device),
                position_ids=torch.tensor(positions, device=device),
                attention_mask=mask,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1]  # type: ignore[no-any-return]

    @staticmethod
    def _choose(rows: list[Row], logits: torch.Tensor) -> list[int]:
        """The next token of each row: the best one, or a draw at its temperature; only what its grammar allows."""
        for index, row in enumerate(rows):
            if row.grammar is not None:
                constrain(row, row.grammar, logits[index])
        tokens: list[int] = logits.argmax(dim=-1).tolist()
        for index, row in enumerate(rows):
            if row.random is None:
                continue
            scores = torch.softmax(logits[index].float().cpu() / row.request.temperature, dim=-1)
            ordered, places = scores.sort(descending=True)
            # Keep the smallest set of tokens whose probability reaches top_p; the best one is always kept.
            ordered[ordered.cumsum(0) - ordered >= row.request.top_p] = 0.0
            tokens[index] = int(places[torch.multinomial(ordered, 1, generator=row.random)])
        return tokens

    def _accept(self, row: Row, token: int) -> None:
        if row.handle.done:
            return  # its grammar gave up
        row.generated += 1
        row.last_token = token
        if token in row.stop_ids:
            self._finish(row, "stop")
            return
        row.handle.push(row.stops.push(row.detokenizer.push(token)))
        if row.grammar is not None and row.grammar.accept(token):
            self._finish(row, "stop")
        elif row.stops.stopped:
            row.handle.finish("stop", row.generated)
        elif row.generated >= row.request.max_tokens:
            self._finish(row, "length")

    @staticmethod
    def _finish(row: Row, reason: str) -> None:
        row.handle.push(row.stops.push(row.detokenizer.finish()))
        row.handle.push(row.stops.finish())
        row.handle.finish("stop" if row.stops.stopped else reason, row.generated)

    def _sweep(self) -> None:
        """Close the gaps that ended rows left: the last decoding row moves into each, the newcomer stays last."""
        index = 0
        while index < len(self.rows):
            if not self.rows[index].handle.done:
                index += 1
                continue
            last = len(self.rows) - 1
            newcomer = index < last and not self.rows[last].prefilled
            source = last - 1 if newcomer else last
            if source > index:
                self._move(source, index)
            if newcomer:
                self._move(last, source)
            self.rows.pop()
        if not self.rows:
            self._cache.release()

    def _move(self, source: int, target: int) -> None:
        row = self.rows[source]
        self._cache.move(source, target, row.read if not row.prefilled else row.column)
        self.rows[target] = row


def constrain(row: Row, grammar: TokenGrammar, logits: torch.Tensor) -> None:
    """Mask one row; a grammar that becomes too costly ends this row alone."""
    try:
        grammar.mask(logits)
    except InvalidInput as error:
        row.handle.fail(error)
