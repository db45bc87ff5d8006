"""Passages that were grown around a hit, cut back to the hit where a prompt has no room for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from core.types import Passage


def fitted(passages: Sequence[Passage], fits: Callable[[Sequence[Passage]], bool]) -> tuple[Passage, ...]:
    """The passages as they are if they fit; else the last grown ones are cut back to what was found, one by one.

    What does not fit even then is the engine's to refuse: nothing that was found is left out here.
    """
    kept = list(passages)
    for at in reversed(range(len(kept))):
        if kept[at].hit_start is None or fits(kept):
            continue
        kept[at] = as_found(kept[at])
    return tuple(kept)


def as_found(passage: Passage) -> Passage:
    """A passage without what it was grown by."""
    if passage.hit_start is None or passage.hit_end is None:
        return passage
    return replace(
        passage,
        text=passage.text[passage.hit_start - passage.start : passage.hit_end - passage.start],
        start=passage.hit_start,
        end=passage.hit_end,
        page=passage.page_at(passage.hit_start),
        hit_start=None,
        hit_end=None,
    )
