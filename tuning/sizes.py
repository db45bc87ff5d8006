"""How much a run shows and asks, by the machine it runs on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RunSize:
    """How much a run shows and asks. Evaluation time is about linear in the items to be answered."""

    answered: int
    """Held-out rows answered and compared with the house's own text."""
    read: int
    """Held-out rows whose reference is only read for its likelihood: no generation, so cheap."""
    probes: int
    """Shipped questions over neutral passages."""
    mismatched: int
    """Shipped questions put before the wrong passages: must be refused."""
    refused: int
    """Held-out rows asked without the sentence that answers them, or over another row's passages: must be refused."""
    leaks: int
    """Training questions asked without passages."""
    conflicts: int
    """Training questions over passages whose numbers were changed."""
    min_new_tokens: int
    max_new_tokens: int
    """Bounds of what an answer may have; within them it follows the house's own answers."""
    examples: int = 3
    """Training rows that the base is shown in its prompt, to compare tuning with doing just that."""
    negatives: tuple[int, ...] = (0, 1, 2, 2)
    """Real negatives of a grounded row, drawn evenly from these."""
    negative_chars: int | None = None
    """Negatives are cut to whole sentences within so many characters (half in Japanese); None leaves them whole."""


SMALL = RunSize(
    answered=12,
    read=32,
    probes=24,
    mismatched=8,
    refused=12,
    leaks=12,
    conflicts=12,
    min_new_tokens=48,
    max_new_tokens=96,
    negatives=(0, 1, 1),
    negative_chars=160,
)
"""For two cores: about 90 seconds with a 135M model and two systems. Whole negatives would treble the training time:
a batch is as long as its longest row."""
LARGE = RunSize(
    answered=64,
    read=256,
    probes=26,
    mismatched=16,
    refused=64,
    leaks=64,
    conflicts=64,
    min_new_tokens=96,
    max_new_tokens=256,
)
"""For a GPU."""
