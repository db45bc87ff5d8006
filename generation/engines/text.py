"""From token ids to text that can be shown at once: never half a character, never part of a stop string.

A Japanese character takes up to three tokens of a byte-level vocabulary, so a token is not always a piece of text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

REPLACEMENT = "\ufffd"
_LONGEST_CHARACTER = 8
"""Tokens after which an unfinished character is taken for broken bytes and shown as such: UTF-8 needs four at most."""


class Detokenizer:
    """Incremental decoding of one sequence; works for any tokenizer, whatever its word boundaries look like."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._context = 0  # decoding starts here, so that a token's text may depend on the one before it
        self._read = 0  # tokens before this one are out

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that became certain, often none."""
        self._ids.append(token_id)
        return self._take(force=len(self._ids) - self._read >= _LONGEST_CHARACTER)

    def finish(self) -> str:
        """The text of what is left, without a character that never got its last bytes."""
        return self._take(force=True).rstrip(REPLACEMENT)

    def _take(self, *, force: bool) -> str:
        known = self._decode(self._ids[self._context : self._read])
        text = self._decode(self._ids[self._context :])
        if not force and (len(text) <= len(known) or text.endswith(REPLACEMENT)):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return text[len(known) :]


class StopFilter:
    """Cuts a stream at the first stop string and holds back what may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Add text; returns what may be shown."""
        if self.stopped or not self._stops:
            return "" if self.stopped else text
        text = self._held + text
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(self._overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that begins `stop`."""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)


def stop_ids_of(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens at which an answer ends: all that the model's generation configuration names, and the tokenizer's own."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)
