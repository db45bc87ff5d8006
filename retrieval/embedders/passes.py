"""Forward passes on a CPU: one thread each, and as many side by side as there are cores.

Two threads that share a pass wait for the slower one at the end of every operation. Where ingest, the database or a
query has one of the cores, that is most of the time; passes of one thread each leave no core idle, and small ones are
as fast per token as large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

Part = TypeVar("Part")
Found = TypeVar("Found")


class Passes:
    """Runs parts of calls on its own threads, first come, first served. Thread-safe; the threads start when needed."""

    def __init__(self, cores: int | None = None) -> None:
        """cores: threads; default as many as PyTorch would use, which OMP_NUM_THREADS bounds."""
        import torch
        from threadpoolctl import ThreadpoolController

        self._openmp = ThreadpoolController().select(user_api="openmp")
        self._pool = ThreadPoolExecutor(
            cores or torch.get_num_threads(), thread_name_prefix="embed", initializer=self._stay_alone
        )

    def map(self, run: Callable[[Part], Found], parts: Iterable[Part]) -> list[Found]:
        """`run` of each part, in their order; the first error is raised once no part of this call is under way."""
        futures = [self._pool.submit(run, part) for part in parts]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the calling thread compute on one core, and now.

        A query is ten tokens: its products are too small to share, and each would wait for a second core, which ingest
        may have. On two cores 7.5 ms in place of 8.6, and 12 at the 95th percentile in place of 20 beside ingest.
        """
        import torch

        torch.get_num_threads()  # sets the number for a thread that is new to torch; later it would undo ours
        with self._openmp.limit(limits=1):
            yield

    def _stay_alone(self) -> None:
        import torch

        torch.get_num_threads()
        self._openmp.limit(limits=1)
