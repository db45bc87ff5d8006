"""How the threads of one process share the interpreter."""

from __future__ import annotations

import sys

SWITCH_INTERVAL_S = 0.0005
"""How long a thread keeps the interpreter once another wants it. A query or a forward pass gives it up at every step,
to torch, index and database, and beside ingest would wait up to Python's usual 5 ms each time it comes back."""


def take_short_turns() -> None:
    """For processes in which ingest runs beside forward passes or queries. Holds for the whole process."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
