"""Rows with a judgement on them, pairs and single answers, on the way to training rows.

A pair is rendered like an answer, twice over the same passages in the same order: what tells its halves apart is then
the answer alone. A refusal made from a pair is preferred to the answer that its passages no longer carry.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from generation.prompt import PromptPassage
from tuning.refusals import MadeRefusal
from tuning.render import RenderedRow, answer_of, render_row
from tuning.sources import SourceRow


def as_answered(row: SourceRow) -> SourceRow:
    """A pair's better half becomes the last turn, and its worse half `rejected`; other rows are as they were."""
    if "chosen" not in row.content:
        return row
    content = dict(row.content)
    turn = {"role": "assistant", "content": content.pop("chosen")}
    return replace(row, content={**content, "messages": [*content["messages"], turn]})


def is_shown(content: Mapping[str, Any]) -> bool:
    """Whether the row's answer may be shown as the house's own: not one that somebody judged bad."""
    return content.get("label") is not False


def render_judged(
    content: Mapping[str, Any], negatives: Sequence[PromptPassage], generator: random.Random
) -> RenderedRow:
    """`render_row` with the judgement, and with what rules reward: facts, who holds them, whether to refuse."""
    state = generator.getstate()
    rendered = render_row(content, negatives, generator)
    changes: dict[str, Any] = {"facts": rendered.facts, "gold": rendered.gold, "refusal": rendered.refusal}
    if "rejected" in content:
        generator.setstate(state)
        turns = [*content["messages"][:-1], {"role": "assistant", "content": content["rejected"]}]
        changes["rejected"] = render_row({**content, "messages": turns}, negatives, generator).row.completion
    if "label" in content:
        changes["label"] = bool(content["label"])
    return replace(rendered, row=rendered.row.model_copy(update=changes))


def judged_refusal(made: MadeRefusal, origin: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of a made refusal, judged: better than the answer it replaces, and good by itself."""
    content = dict(made.content)
    if "rejected" in content:
        content["rejected"] = answer_of(origin)
    if "label" in content:
        content["label"] = True
    return content
