"""The text of one block while it is read: words, line breaks, and readings of kanji, kept out of the words."""

from __future__ import annotations

from collections.abc import Callable


class Inline:
    """Collects pieces of text; readings (ruby) come back at the end, neighbours joined: 中央公園=ちゅうおうこうえん."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._readings: list[tuple[str, str]] = []
        self._open_reading = False
        self._taken = 0

    def add(self, text: str) -> None:
        """Append text as it is."""
        if text:
            self._pieces.append(text)
            self._open_reading = False

    def add_ruby(self, base: str, reading: str) -> None:
        """Append a base text and keep its reading for the end."""
        base, reading = "".join(base.split()), "".join(reading.split())
        if not base or not reading:
            self.add(base)
            return
        self._pieces.append(base)
        if self._open_reading:
            before, read = self._readings[-1]
            self._readings[-1] = (before + base, read + reading)
        else:
            self._readings.append((base, reading))
        self._open_reading = True

    @property
    def mark(self) -> tuple[int, int]:
        """Where the text is now, for `rewrite`."""
        return self._taken, len(self._pieces)

    def rewrite(self, mark: tuple[int, int], write: Callable[[str], str]) -> None:
        """Put what `write` makes of the text since a mark in its place; nothing where the text was taken since."""
        taken, at = mark
        if taken == self._taken and at < len(self._pieces):
            self._pieces[at:] = [write("".join(self._pieces[at:]))]
            self._open_reading = False

    def take(self) -> tuple[str, str]:
        """The text and, in brackets, its readings, each pair once; and start anew. Empty where there is none."""
        text = "".join(self._pieces)
        pairs = dict.fromkeys(f"{base}={reading}" for base, reading in self._readings)
        self._pieces, self._readings, self._open_reading = [], [], False
        self._taken += 1
        return text, f"（ルビ: {'、'.join(pairs)}）" if pairs else ""
