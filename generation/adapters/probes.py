"""The fixed texts by which an adapter's effect is measured, wherever it runs. No library but the standard one."""

from __future__ import annotations

PROBES_VERSION = "probes-1"
PROBES = (
    "[1] The office opens at nine.\n\nQuestion: When does it open?",
    "返品の期限はいつですか。",
    "Thank you for your help",
)
"""Bare texts, few tokens: the probe runs between two decode steps of everyone else."""
TOKENS_PER_PROBE = 32
NO_EFFECT = 1e-3
"""Largest shift of any logit under which an adapter counts as having no effect; rounding noise is about 1e-5."""
