"""Several ingest threads, one forward pass: what waits while the model is busy is embedded together in the next call.

Two passes beside each other on the same cores take longer than one over both their texts, and small documents alone
make batches too small to keep the cores busy. There is no thread and no timer: whoever finds the model idle runs it,
for all that is waiting by then, and passes the turn on when its own answer is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Found = tuple[NDArray[np.float32], list[NDArray[np.float32]]]
    Encode = Callable[[Sequence[str], Sequence[Sequence[tuple[int, int]]]], Found]

MOST_TEXTS = 256
"""Of one call, unless a single caller brings more: memory and the wait of the first are bounded."""


@dataclass(slots=True, eq=False)
class _Request:
    texts: Sequence[str]
    spans: Sequence[Sequence[tuple[int, int]]]
    woken: Event = field(default_factory=Event)
    """Set when there is a result or an error, or when it is this caller's turn to run the model."""
    found: Found | None = None
    error: BaseException | None = None

    @property
    def ended(self) -> bool:
        return self.found is not None or self.error is not None


class Coalescer:
    """Calls of `encode` from several threads, one at a time and merged."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._lock = Lock()
        self._waiting: list[_Request] = []
        self._busy = False

    def __call__(self, texts: Sequence[str], spans: Sequence[Sequence[tuple[int, int]]]) -> Found:
        """The caller's part of a merged call; an error of that call is raised to all whose texts were in it."""
        request = _Request(texts, spans)
        with self._lock:
            self._waiting.append(request)
            if self._busy:
                request.woken.clear()
            else:
                self._busy = True
                request.woken.set()
        request.woken.wait()
        if not request.ended:
            self._run(self._take(request))
            self._pass_on()
        if request.error is not None:
            raise request.error
        assert request.found is not None
        return request.found

    def _take(self, own: _Request) -> list[_Request]:
        """The caller's own request first, then others in their order as long as they fit."""
        with self._lock:
            self._waiting.remove(own)
            taken, texts = [own], len(own.texts)
            while self._waiting and texts + len(self._waiting[0].texts) <= MOST_TEXTS:
                taken.append(self._waiting.pop(0))
                texts += len(taken[-1].texts)
            return taken

    def _run(self, requests: Sequence[_Request]) -> None:
        try:
            dense, sentences = self._encode(
                [text for one in requests for text in one.texts], [span for one in requests for span in one.spans]
            )
        except BaseException as error:  # noqa: BLE001 - raised again, to each whose texts were in the pass
            for one in requests:
                one.error = error
        else:
            at = 0
            for one in requests:
                end = at + len(one.texts)
                one.found = dense[at:end], sentences[at:end]
                at = end
        for one in requests:
            one.woken.set()

    def _pass_on(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting[0].woken.set()
            else:
                self._busy = False
