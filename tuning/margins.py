"""Every number that a verdict depends on, and how the chance of error is spent over the candidates of a family."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

FIRST_LOOK = 0.6
"""Share of the whole chance of error that the first candidate may spend; later ones share the rest."""


@dataclass(frozen=True, slots=True)
class Margins:
    """All figures are better when higher; shares are in 0..1.

    A share that may drop by 0.10 is what some 200 pairs show if 15 % of them differ (`tuning.intervals.pairs_needed`);
    wider margins, as for facts that only the tenant's rows can supply, are for fewer.
    """

    total_alpha: float = 0.05
    """Chance that a version worse by a margin passes, over all candidates that look at the same held-out rows."""
    look: int = 1
    """Which of these candidates this is, from 1."""
    fewest_means: int = 8
    """Pairs under which a mean of real figures decides nothing, whatever its bound."""
    min_coverage: float = 0.9
    """Share of a figure's items that both systems must have; the rest are skips, and many skips are a failure."""
    likelihood_gain: float = 0.05
    """Nats per token by which held-out house text must become likelier than under the base."""
    similarity_gain: float = 0.03
    """chrF by which answers must come nearer to the house's own."""
    champion_likelihood: float = 0.10
    """Nats per token by which held-out house text may be less likely than under the champion."""
    champion_similarity: float = 0.05
    """chrF by which answers may be further from the house's own than the champion's."""
    margin: float = 0.10
    """How much grounding, precision, citation, answering, refusal, finished, numbers and language may drop."""
    trap_margin: float = 0.20
    """The same of `believing` and `no_leak`: only the tenant's own rows give such items, so there are few."""
    max_leak: float = 0.05
    """Largest observed drop of `no_leak`: facts from training given without any passage. Three answers are borne."""
    max_lost: float = 0.20
    """Share of the answers that the reference had right which may have become wrong; counts without what was gained."""
    fewest_kept: int = 20
    """Right answers of the reference under which nothing is said of forgetting."""
    max_forgetting: float = 1.6
    """Nats per token by which neutral English and Japanese text may become less likely than under the reference. Eight
    good adapters of 48 steps moved it by 0.26 to 1.45 and answered no question worse; one that had learnt its rows by
    heart by 1.75 (`python -m benchmarks.gate`). So this stops only what has lost the language; answers that became
    wrong are counted by `kept`."""
    few_shot_margin: float = 0.05
    """How much worse than the base with examples in its prompt style may be: otherwise examples are the better way."""
    advisory: tuple[str, ...] = ()
    """Checks, by figure or by what they compare with, that are made and shown and do not decide."""
    max_rubric: float = 1.0
    """Points of 25 by which a calibrated judge may find answers worse."""

    @property
    def alpha(self) -> float:
        """Chance of error of each bound in this look."""
        return self.total_alpha * share_of_look(self.look)

    def at_look(self, look: int) -> Margins:
        """The same margins for a later candidate."""
        return replace(self, look=look)


def share_of_look(look: int) -> float:
    """Share of the whole chance of error that a look may spend: 0.6, then 0.4 / (k (k - 1)); all of them add up to 1.

    Raises:
        ValueError: looks are counted from 1.
    """
    if look < 1:
        raise ValueError("looks are counted from 1")
    return FIRST_LOOK if look == 1 else (1 - FIRST_LOOK) / (look * (look - 1))


def look_text(rules: Margins) -> str:
    """What a report says of the look."""
    if rules.look == 1:
        return (
            f"first candidate on these held-out rows: each bound errs with {rules.alpha:.3f} at most "
            f"(all candidates together {rules.total_alpha:g})"
        )
    tries = math.ceil(rules.look - 1)
    return (
        f"candidate {rules.look} on these held-out rows, after {tries} rejected: each bound errs with "
        f"{rules.alpha:.4f} at most, so that all candidates together err with {rules.total_alpha:g}"
    )
