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
        keep = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and did not become a stop string."""
        held, self._held = self._held, ""
        return held


class ThoughtFilter:
    """Leaves out what a model thinks before and while it answers, marks included.

    Only what a family's marks enclose: of a model whose marks are not known, a thought is what begins its answer.
    """

    def __init__(self, marks: tuple[str, str] = ("<think>", "</think>"), *, inside: bool, anywhere: bool) -> None:
        """inside: the prompt ended with the opening mark. anywhere: marks later than at the start count as well."""
        self._opening, self._closing = marks
        self._inside = inside
        self._anywhere = anywhere
        self._answering = False
        """Whether text of the answer was shown."""
        self._held = ""

    def push(self, text: str) -> str:
        """Add text; returns what may be shown."""
        if self._answering and not self._anywhere:
            return text
        text = self._held + text
        self._held = ""
        shown = ""
        while text:
            if self._inside:
                before, mark, text = text.partition(self._closing)
                if not mark:
                    self._held = before[len(before) - _overlap(before, self._closing) :]
                    break
                self._inside = False
                continue
            if not self._answering:
                text = text.lstrip()
                if not self._anywhere and text and not self._opens(text):
                    self._answering = True
                    return shown + text
            before, mark, text = text.partition(self._opening)
            if mark:
                self._inside = True
            else:
                keep = _overlap(before, self._opening)
                self._held, before = before[len(before) - keep :], before[: len(before) - keep]
            shown += before
            self._answering = self._answering or bool(before)
        return shown

    def finish(self) -> str:
        """What was held back and did not become a mark; a thought without an end is no answer."""
        held, self._held = self._held, ""
        return "" if self._inside else held

    def _opens(self, text: str) -> bool:
        return text.startswith(self._opening) or self._opening.startswith(text)


class ShownText:
    """What of a model's text is an answer: no thoughts, and nothing from a stop string on."""

    def __init__(self, stops: Sequence[str], thoughts: ThoughtFilter | None, *, trim: bool = False) -> None:
        """trim: the template writes white space before an answer, so the model does."""
        self._stops = StopFilter(stops)
        self._thoughts = thoughts
        self._trim = trim

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stops.stopped

    def push(self, text: str) -> str:
        """Add text; returns what may be shown."""
        text = text if self._thoughts is None else self._thoughts.push(text)
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return self._stops.push(text)

    def finish(self) -> str:
        """What was held back and is shown after all."""
        rest = "" if self._thoughts is None else self._stops.push(self._thoughts.finish())
        return rest + self._stops.finish()


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that begins `mark`."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def stop_ids_of(model: Any, tokenizer: Any, *, template: int | None = None) -> frozenset[int]:
    """Tokens at which an answer ends: all that the model's generation configuration names, the tokenizer's own, and
    that with which the chat template ends an answer, which some configurations forget (the first Gemma's).
    """
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id, template] if i is not None)
