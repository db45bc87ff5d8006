"""How much a run shows and asks, by the machine it runs on; enough of each figure for the margins of the gate."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class RunSize:
    """How much a run shows and asks. Evaluation time is about linear in the items to be answered."""

    answered: int
    """Held-out rows answered and compared with the house's own text."""
    read: int
    """Held-out rows whose reference is only read for its likelihood: no generation, so cheap."""
    grounded: int
    """Questions whose passages hold the answer, in all: held-out rows, the tenant's documents, shipped ones."""
    refusals: int
    """Questions whose passages do not hold it, in all, from the same sources."""
    refused: int
    """Held-out rows asked without the sentence that answers them, or over another row's passages: must be refused."""
    leaks: int
    """Training questions asked without passages."""
    conflicts: int
    """Training questions over passages whose numbers were changed."""
    min_new_tokens: int
    max_new_tokens: int
    """Bounds of what an answer may have; within them it follows the house's own answers."""
    documents: int = 80
    """At most so many questions of each kind are made from the tenant's documents."""
    with_examples: int = 12
    """Held-out rows that the base also answers with examples in its prompt."""
    examples: int = 3
    """Training rows that the base is shown in its prompt, to compare tuning with doing just that."""
    negatives: tuple[int, ...] = (0, 1, 2, 2)
    """Real negatives of a grounded row, drawn evenly from these."""
    negative_chars: int | None = None
    """Negatives are cut to whole sentences within so many characters (half in Japanese); None leaves them whole."""


SMALL = RunSize(
    answered=128,
    read=256,
    grounded=288,
    refusals=288,
    refused=40,
    leaks=64,
    conflicts=64,
    min_new_tokens=48,
    max_new_tokens=96,
    negatives=(0, 1, 1),
    negative_chars=160,
)
"""For two cores. Whole negatives would treble the training time: a batch is as long as its longest row. The shipped
questions are short for the same reason: most of an evaluation is reading prompts."""
LARGE = RunSize(
    answered=128,
    read=256,
    grounded=320,
    refusals=320,
    refused=64,
    leaks=96,
    conflicts=96,
    min_new_tokens=96,
    max_new_tokens=256,
    with_examples=64,
)
"""For a GPU."""


def size_of(items: int | None, *, on_gpu: bool) -> RunSize:
    """The size for a machine. items: questions of each kind, where the settings want fewer than the margins need."""
    size = LARGE if on_gpu else SMALL
    return (
        size if items is None else replace(size, grounded=items, refusals=items, documents=min(size.documents, items))
    )
