"""The running batch on a GPU: the host is one round behind the device.

A round starts to read a bounded piece of the newcomers' prompts and the next decode step of everyone else, and only
then looks at the tokens of the round before: turning them into text, finding stops and serving streams costs
milliseconds, and the device computes meanwhile. Rows that follow a grammar are the exception, their round waits. A row
that turns out to have ended was decoded once in vain; its pages go to others only behind that step in the device's
queue, so nothing is overwritten that is still read.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.errors import Unavailable
from core.settings import GenerationSettings
from generation.engines.adapter_bank import BASE
from generation.engines.batch import Batch, Row, constrain
from generation.engines.paged.decoder import PagedDecoder
from generation.engines.paged.pages import PAGE, bytes_per_token, pages_for
from generation.engines.paged.prompts import Stretch
from generation.engines.paged.sampling import draw
from generation.engines.paged.slot_bank import SlotBank
from generation.engines.paged.slots import AdapterSlots, bytes_of_slot
from generation.engines.paged.steps import DecodeSteps
from generation.engines.paged.transfer import Download, upload
from generation.engines.paged.weights import Weights, join_weights

PIECE_TOKENS = 2048
"""Prompt tokens read between two decode steps: about 55 ms of an 8B model on an H100, and enough to keep it busy."""
MOST_PIECE_TOKENS = 8192
"""The same when much waits. A decode step of few rows takes as long as one of many, so each step between two pieces
makes everyone's last token later; running streams pause for 0.2 s instead."""
_PIECES_OF_BURST = 4
"""A piece is this part of the prompt tokens that wait, between those bounds."""
_USUAL_RANK = 16
"""Rank that memory is kept for in every adapter slot; larger ones take from what the fraction leaves free."""
_WORK_BYTES = 1 << 30
"""Left free for intermediate results at least, beside the output matrix in float32 that the fingerprint needs."""


@dataclass(slots=True, eq=False)
class _Seated:
    """A row and what it holds on the device."""

    row: Row
    seat: int
    pages: list[int]
    started: int = 0
    """Tokens whose computation was started, the one of the prompt included."""
    uniform: random.Random | None = None


class PagedBatch(Batch):
    """Rows, their pages, and one round of work on them."""

    def __init__(self, model: Any, tokenizer: Any, settings: GenerationSettings, *, rows: int, context: int) -> None:
        """rows: most at once. context: longest sequence."""
        weights = join_weights(model)
        slots = AdapterSlots(weights, limit=settings.max_adapters)
        pool = settings.kv_cache_tokens or _room(weights, settings, rows, context)
        self.capacity = pages_for(pool) * PAGE
        self._decoder = PagedDecoder(model, weights, slots, seats=rows, context=context, tokens=pool)
        self._slots = slots
        self._steps = DecodeSteps(self._decoder)
        self.bank = SlotBank(slots, tokenizer, self._decoder.probe, lambda: self._steps.record_all(adapted=True))
        self._piece, self._most_piece = PIECE_TOKENS, MOST_PIECE_TOKENS
        self._free_seats = list(range(rows - 1, -1, -1))
        self._seated: list[_Seated] = []
        self._flights: deque[tuple[list[_Seated], Download]] = deque()
        self._device = model.device

    @property
    def rows(self) -> list[Row]:  # type: ignore[override]
        """Rows in the batch, in order of arrival."""
        return [seated.row for seated in self._seated]

    def prepare(self) -> None:
        """Record the decode steps, so that the first requests do not wait for it."""
        self._steps.record_all(adapted=False)

    def fits(self, row: Row) -> bool:
        """Whether a seat and all pages that the row may come to need are free."""
        return bool(self._free_seats) and pages_for(row.most_columns) <= self._decoder.pool.free

    @torch.inference_mode()
    def add(self, row: Row) -> None:
        """Take a newcomer; `fits` must have said yes."""
        seated = _Seated(row, self._free_seats.pop(), self._decoder.pool.take(pages_for(row.most_columns)))
        if row.request.temperature > 0:
            seated.uniform = random.Random(row.request.seed)
        self._seated.append(seated)  # first, so that seat and pages come back if the device refuses what follows
        self._decoder.table[seated.seat, : len(seated.pages)] = upload(seated.pages, self._device, torch.int32)
        self._decoder.slot[seated.seat].fill_(self._slots.slot_of(row.key))

    @torch.inference_mode()
    def step(self) -> None:
        """Start a piece of the newcomers' prompts and one token of every other row; take in the tokens before."""
        if not self._seated:
            return
        self.bank.touch([seated.row.key for seated in self._seated])
        earlier = len(self._flights)
        self._start_prompts()
        if any(seated.row.grammar is not None for seated in self._seated):
            self._take_in(len(self._flights))  # what a grammar allows next depends on the token before
            earlier = 0
        self._start_decode()
        self._take_in(earlier if len(self._flights) > earlier else len(self._flights))
        self._sweep()

    @torch.inference_mode()
    def fail(self, error: BaseException) -> None:
        """End all rows with an error."""
        self._flights.clear()
        for seated in self._seated:
            if not seated.row.handle.done:
                seated.row.handle.fail(error)
        self._sweep()

    def _start_prompts(self) -> None:
        """Read up to a piece of prompt tokens of the oldest newcomers, several of them together."""
        waiting = [one for one in self._seated if not one.row.prefilled and not one.row.handle.done]
        if not waiting:
            return
        much = sum(len(one.row.prompt) - one.row.read for one in waiting) // _PIECES_OF_BURST
        room = max(self._piece, min(self._most_piece, much))
        spans = []
        for one in waiting:
            count = min(len(one.row.prompt) - one.row.read, room)
            if count > 0:
                spans.append((one, Stretch(one.seat, one.row.read, count, self._slots.slot_of(one.row.key))))
            room -= count
        spans.sort(key=lambda span: span[1].slot)  # neighbours of one adapter share its products
        newcomers, parts = [one for one, _ in spans], [part for _, part in spans]
        tokens = [token for one, part in spans for token in one.row.prompt[part.before : part.before + part.count]]
        seats = [part.seat for part in parts for _ in range(part.count)]
        packed = upload([tokens, seats], self._device)
        logits = self._decoder.prefill(packed[0], packed[1], parts)
        for seated, part in spans:
            seated.row.read += part.count
        ready = [index for index, seated in enumerate(newcomers) if seated.row.prefilled]
        if not ready:
            self._flights.append(([], Download(packed[0, :0])))  # no token, but the host is to wait for this piece
            return
        done = [newcomers[index] for index in ready]
        chosen = logits[upload(ready, self._device)] if len(ready) < len(newcomers) else logits
        best = chosen.argmax(dim=-1)
        where = upload([[one.seat for one in done], [len(one.row.prompt) for one in done]], self._device)
        self._decoder.positions[where[0]] = where[1]
        self._decoder.last[where[0]] = best
        self._launch(done, best, chosen)

    def _start_decode(self) -> None:
        """Start the next token of every row that may need one."""
        ready = [
            seated
            for seated in self._seated
            if seated.started and not seated.row.handle.done and seated.started < seated.row.request.max_tokens
        ]
        if not ready:
            return
        adapted = any(seated.row.key != BASE for seated in ready)
        best, logits = self._steps.run([seated.seat for seated in ready], adapted=adapted)
        self._launch(ready, best, logits)

    def _launch(self, seated: list[_Seated], best: torch.Tensor, logits: torch.Tensor) -> None:
        """Draw where a row asks for more than the best token, and send the tokens on their way to the host."""
        bound = [index for index, one in enumerate(seated) if one.row.grammar is not None]
        if bound:
            best = self._bind(seated, bound, best, logits)
        drawn = [index for index, one in enumerate(seated) if one.uniform is not None]
        if drawn:
            best = self._draw(seated, drawn, best, logits)
        for one in seated:
            one.started += 1
        self._flights.append((seated, Download(best)))

    def _bind(self, seated: Sequence[_Seated], bound: list[int], best: torch.Tensor, logits: torch.Tensor) -> Any:
        """Mask the rows that follow a grammar; their best tokens are then others."""
        for index in bound:
            row = seated[index].row
            assert row.grammar is not None
            constrain(row, row.grammar, logits[index])
        where = upload([bound, [seated[index].seat for index in bound]], self._device)
        tokens = logits[where[0]].argmax(dim=-1)
        self._decoder.last[where[1]] = tokens
        return best.index_copy(0, where[0], tokens)

    def _draw(self, seated: Sequence[_Seated], drawn: list[int], best: torch.Tensor, logits: torch.Tensor) -> Any:
        numbers = []
        for index in drawn:
            request, source = seated[index].row.request, seated[index].uniform
            assert source is not None
            numbers.append([request.temperature, request.top_p, source.random()])
        options = upload(numbers, self._device, torch.float32)
        where = upload([drawn, [seated[index].seat for index in drawn]], self._device)
        tokens = draw(logits[where[0]], options[:, 0], options[:, 1], options[:, 2])
        self._decoder.last[where[1]] = tokens
        return best.index_copy(0, where[0], tokens)

    def _take_in(self, count: int) -> None:
        """Take in the tokens of the oldest `count` flights, in order."""
        for _ in range(count):
            seated, tokens = self._flights.popleft()
            for one, token in zip(seated, tokens.values(), strict=True):
                if not one.row.handle.done:
                    self._accept(one.row, token)

    def _sweep(self) -> None:
        """Give back what ended rows held; a step in flight may still write there, before whoever comes next does."""
        kept = []
        for seated in self._seated:
            if not seated.row.handle.done:
                kept.append(seated)
                continue
            self._decoder.pool.give(seated.pages)
            self._free_seats.append(seated.seat)
        self._seated = kept
        if not kept:
            self._flights.clear()


def _room(weights: Weights, settings: GenerationSettings, rows: int, context: int) -> int:
    """Tokens of the page pool: enough for every row at full length, or what the memory allows.

    Raises:
        Unavailable: `generator_misconfigured`: the memory does not hold one full-length sequence.
    """
    device, dtype = weights.embedding.device, weights.embedding.dtype
    if device.type != "cuda":
        return max(context, 2048 * rows)
    free, total = torch.cuda.mem_get_info(device)
    adapters = (settings.max_adapters + 1) * bytes_of_slot(weights, _USUAL_RANK)
    spare = int(total * settings.gpu_memory_fraction) - (total - free) - adapters
    spare -= max(_WORK_BYTES, _work_bytes(weights)) + 4 * weights.head.numel()
    tokens = min(rows * context, spare // bytes_per_token(weights.shape, dtype))
    if tokens < context:
        raise Unavailable(
            f"the GPU has room for {max(0, tokens)} tokens of keys and values beside the model and the context is "
            f"{context}: lower generation.context_tokens or raise generation.gpu_memory_fraction",
            code="generator_misconfigured",
            retryable=False,
        )
    return tokens


def _work_bytes(weights: Weights) -> int:
    """Memory of the intermediate results of the largest piece, with half as much again for the allocator's gaps."""
    shape = weights.shape
    wide = 3 * shape.intermediate + sum(shape.outputs("qkv")) + 4 * shape.hidden
    return MOST_PIECE_TOKENS * wide * weights.embedding.dtype.itemsize * 3 // 2
