"""Rows to token ids with labels, audited before any compute is spent.

Prompt and completion are tokenised apart: the prompt's ids are then the very ids that serving feeds (no token can
merge across the border), and the completion starts on a token of its own, as generation does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import DatasetRejected, FieldError
from tuning.spec import TrainRow
from tuning.template import TrainingTemplate

IGNORED = -100
"""Label of a token without loss; torch's cross entropy skips it."""

_ROWS_AT_ONCE = 1_000
_PARTS_FOR_WORKERS = 20
_MOST_WORKERS = 16
"""On 16 cores 200,000 rows of 1,000 tokens take 15 seconds instead of 100, which a waiting GPU is worth."""
_TEMPLATE_CHECKS = 256
_REPORTED_ROWS = 20


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRow:
    """One row ready for training: loss on every token from `prompt_tokens` on."""

    input_ids: NDArray[np.int32]
    prompt_tokens: int

    @property
    def labels(self) -> NDArray[np.int32]:
        """`input_ids` with IGNORED over the prompt."""
        labels = self.input_ids.copy()
        labels[: self.prompt_tokens] = IGNORED
        return labels

    @property
    def supervised_tokens(self) -> int:
        """Tokens with loss."""
        return len(self.input_ids) - self.prompt_tokens


def encode_rows(tokenizer: Any, rows: Sequence[TrainRow], *, max_tokens: int) -> list[EncodedRow]:
    """Encode all rows, order kept.

    Raises:
        DatasetRejected: some row is longer than `max_tokens` (`rows_too_long`; nothing is ever cut), has a completion
            without tokens, holds a special token in its text (`special_token_in_row`), or the template does not render
            what serving renders (see `TrainingTemplate.audit_rendering`). `errors` names up to 20 rows, counted from 1.
    """
    template = TrainingTemplate(tokenizer)
    _refuse([
        FieldError(f"row {number}", "the completion holds a token of the chat template as text", "special_token_in_row")
        for number, row in enumerate(rows, start=1) if template.chat.holds_control(row.completion)
    ], len(rows))  # fmt: skip
    step = max(1, len(rows) // _TEMPLATE_CHECKS)
    for row in rows[::step]:
        template.audit_rendering(row.prompt, row.completion)
    parts = [rows[start : start + _ROWS_AT_ONCE] for start in range(0, len(rows), _ROWS_AT_ONCE)]
    encoded = [row for part in _encode_parts(template, parts) for row in part]
    audit_rows(encoded, stop_id=template.stop_id, max_tokens=max_tokens)
    return encoded


def _encode_parts(template: TrainingTemplate, parts: Sequence[Sequence[TrainRow]]) -> Iterator[list[EncodedRow]]:
    """Each part encoded, in order; by many processes where that saves more than their start costs."""
    workers = min(_MOST_WORKERS, (os.cpu_count() or 1) // int(os.environ.get("WORLD_SIZE", "1")))
    if workers <= 2 or len(parts) < _PARTS_FOR_WORKERS:
        yield from (_encode_part(template, part) for part in parts)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(partial(_encode_part, template), parts)


def _one_thread() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes already use every core


def _encode_part(template: TrainingTemplate, part: Sequence[TrainRow]) -> list[EncodedRow]:
    prompts, completions = (
        template.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for texts in (
            [template.prompt_text(row.prompt) for row in part],
            [template.completion_text(row.completion) for row in part],
        )
    )
    return [
        EncodedRow(np.array([*prompt, *completion, template.stop_id], dtype=np.int32), len(prompt))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def audit_rows(encoded: Sequence[EncodedRow], *, stop_id: int, max_tokens: int) -> None:
    """Refuse rows that would train the wrong thing in silence.

    Raises:
        DatasetRejected: see `encode_rows`.
    """
    problems: list[FieldError] = []
    for number, row in enumerate(encoded, start=1):
        location = f"row {number}"
        if len(row.input_ids) > max_tokens:
            detail = f"{len(row.input_ids)} tokens, more than the {max_tokens} of the recipe; rows are never cut"
            problems.append(FieldError(location, detail, "rows_too_long"))
        elif row.supervised_tokens < 2:
            problems.append(FieldError(location, "no token of the completion carries loss", "nothing_supervised"))
        elif row.input_ids[-1] != stop_id:
            problems.append(FieldError(location, "the stop token carries no loss", "stop_token_missing"))
        elif stop_id in row.input_ids[row.prompt_tokens : -1]:
            detail = "the completion holds the stop token as text; the model would learn to stop there"
            problems.append(FieldError(location, detail, "special_token_in_row"))
    _refuse(problems, len(encoded))


def _refuse(problems: Sequence[FieldError], rows: int) -> None:
    if problems:
        raise DatasetRejected(
            f"{len(problems)} of {rows} rows cannot be trained on; first: {problems[0].location}: {problems[0].detail}",
            code=problems[0].code,
            errors=list(problems[:_REPORTED_ROWS]),
        )


def histogram(encoded: Sequence[EncodedRow]) -> dict[str, int]:
    """How many rows have how many supervised tokens: {"<=16": 3, "<=32": 40, ...}, bounds are powers of two."""
    counts: dict[int, int] = {}
    for row in encoded:
        bound = 1 << max(0, row.supervised_tokens - 1).bit_length()
        counts[bound] = counts.get(bound, 0) + 1
    return {f"<={bound}": counts[bound] for bound in sorted(counts)}
