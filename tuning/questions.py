"""What an evaluation asks: held-out rows, shipped neutral probes, and two traps for facts learnt by heart."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from itertools import chain, islice
from typing import Any

from core.language import language_of
from generation.prompt import PromptPassage, render_grounded
from tuning.items import EvaluationItem
from tuning.learnt import LearntFacts
from tuning.probe_world import composed_probes
from tuning.render import RenderedRow, ask_plainly
from tuning.sizes import RunSize
from tuning.sources import SourceRow
from tuning.spec import TrainMessage, TrainRow

_SEED = 17
_NUMBER = re.compile(r"[0-9０-９]+")


def probe_items(grounded: int, refusals: int) -> list[EvaluationItem]:
    """Shipped probes, neutral to any tenant's data, languages in turn: written ones first, composed ones for the rest.

    grounded: how many whose passages answer; refusals: how many whose passages do not.
    """
    text = (resources.files("tuning") / "probes" / "grounded.jsonl").read_text(encoding="utf-8")
    probes = [json.loads(line) for line in text.splitlines()]
    languages = {name: [p for p in probes if p["id"].startswith(name)] for name in ("en", "ja")}
    turns = [probe for pair in zip(languages["en"], languages["ja"], strict=True) for probe in pair]
    items: list[EvaluationItem] = []
    for unanswerable, count in ((False, grounded), (True, refusals)):
        written = [probe for probe in turns if bool(probe.get("unanswerable")) is unanswerable]
        chosen = islice(chain(written, composed_probes(unanswerable=unanswerable)), max(0, count))
        items += [_probe_item(probe) for probe in chosen]
    return items


def _probe_item(probe: Mapping[str, Any]) -> EvaluationItem:
    return EvaluationItem(
        id=f"probe:{probe['id']}",
        source="probe",
        prompt=_grounded_prompt(probe["question"], probe["passages"]),
        expected=tuple(tuple(wordings) for wordings in probe.get("expected", [])),
        gold=tuple(probe.get("gold", [])),
        unanswerable=probe.get("unanswerable", False),
    )


def neutral_items() -> list[EvaluationItem]:
    """Texts of this project's own in English and Japanese about nothing in particular: read, never answered."""
    text = (resources.files("tuning") / "probes" / "neutral.jsonl").read_text(encoding="utf-8")
    found = []
    for line in text.splitlines():
        probe = json.loads(line)
        turn = TrainMessage(role="user", content=probe["text"])
        found.append(
            EvaluationItem(
                id=f"neutral:{probe['id']}", source="neutral", prompt=(turn,), reference=probe["text"], raw=True
            )
        )
    return found


def with_examples(items: Sequence[EvaluationItem], examples: Sequence[TrainRow], count: int) -> list[EvaluationItem]:
    """Items with `count` training rows as turns before their prompt, after the system message.

    Rows in the language of the answer first, in their order: who shows a model examples shows it fitting ones.
    """
    found = []
    for item in items:
        language = language_of(item.reference or "")
        ordered = sorted(examples, key=lambda row: language_of(row.completion) is not language)
        turns: list[TrainMessage] = []
        for row in ordered[:count]:
            turns += [turn for turn in row.prompt if turn.role != "system"]
            turns.append(TrainMessage(role="assistant", content=row.completion))
        head = 1 if item.prompt[0].role == "system" else 0
        found.append(item.model_copy(update={"few_shot": (*item.prompt[:head], *turns, *item.prompt[head:])}))
    return found


def _grounded_prompt(question: str, passages: Sequence[Mapping[str, str]]) -> tuple[TrainMessage, ...]:
    shown = [PromptPassage(passage["text"], passage.get("title")) for passage in passages]
    return tuple(
        TrainMessage.model_validate({"role": turn.role, "content": turn.content})
        for turn in render_grounded(question, shown)
    )


def held_out_items(
    rows: Sequence[tuple[SourceRow, RenderedRow]], size: RunSize, count_tokens: Callable[[str], int]
) -> list[EvaluationItem]:
    """Rows answered first (those whose reference fits the longest answer allowed), then rows only read."""
    ordered = sorted(rows, key=lambda pair: count_tokens(pair[1].row.completion) > size.max_new_tokens)
    return [
        EvaluationItem(
            id=f"held_out:{source.digest[:16]}",
            source="held_out",
            prompt=row.row.prompt,
            reference=row.row.completion,
            expected=tuple((fact,) for fact in row.facts),
            gold=row.gold,
            unanswerable=row.grounded and row.refusal,
        )
        for source, row in ordered[: max(size.answered, size.read)]
    ]


def refused_items(rows: Sequence[RenderedRow]) -> list[EvaluationItem]:
    """Held-out rows whose answer was taken away: whether the adapter still refuses on the house's own matters."""
    return [
        EvaluationItem(id=f"refused:{number}", source="refused", prompt=row.row.prompt, unanswerable=True)
        for number, row in enumerate(rows, start=1)
    ]


def answer_limit(items: Sequence[EvaluationItem], size: RunSize, count_tokens: Callable[[str], int]) -> int:
    """Tokens an evaluated answer may have: half as many again as the longest house answer, within the size's bounds.

    A limit below the house's own answers would call every answer in its style unfinished.
    """
    answered = [item for item in items if item.source == "held_out" and item.reference][: size.answered]
    longest = max((count_tokens(item.reference or "") for item in answered), default=0)
    return min(max(size.min_new_tokens, longest * 3 // 2), size.max_new_tokens)


def leak_items(rows: Sequence[tuple[SourceRow, RenderedRow]], size: RunSize) -> list[EvaluationItem]:
    """Training questions asked without their passages, spread over the whole set; of rows that never had any, those
    that state a number, or a name or term that no other row says.
    """
    found = []
    learnt = LearntFacts([source.content for source, _ in rows])
    for source, row in rows:
        facts = row.facts if row.grounded else learnt.of(source.content)
        facts = tuple(fact for fact in facts if fact not in row.question)
        if facts:
            found.append(
                EvaluationItem(
                    id=f"leak:{source.digest[:16]}",
                    source="train",
                    prompt=ask_plainly(source.content),
                    expected=tuple((fact,) for fact in facts),
                    leak=True,
                )
            )
    found.sort(key=lambda item: hashlib.sha256(f"{_SEED}:{item.id}".encode()).hexdigest())
    return found[: size.leaks]


def conflict_items(rows: Sequence[tuple[SourceRow, RenderedRow]], size: RunSize) -> list[EvaluationItem]:
    """Training questions whose passages now say another number: an adapter that knows the old one by heart is caught.

    This is what happens when a document is replaced after an adapter was trained.
    """
    found = []
    for source, row in rows:
        passages = source.content.get("passages", [])
        if len(row.facts) != 1 or not passages or not row.gold:
            continue
        changed = changed_number(row.facts[0], row.question, [passage["text"] for passage in passages])
        if changed is None:
            continue
        fact, texts = changed
        shown = [PromptPassage(text, passage.get("title")) for text, passage in zip(texts, passages, strict=True)]
        prompt = render_grounded(row.question, shown)
        found.append(
            EvaluationItem(
                id=f"conflict:{source.digest[:16]}",
                source="train",
                prompt=tuple(TrainMessage.model_validate({"role": t.role, "content": t.content}) for t in prompt),
                expected=((fact,),),
                conflict=True,
            )
        )
    found.sort(key=lambda item: hashlib.sha256(f"{_SEED}:{item.id}".encode()).hexdigest())
    return found[: size.conflicts]


def changed_number(fact: str, question: str, texts: Sequence[str]) -> tuple[str, list[str]] | None:
    """The fact and the texts with the fact's number changed alike, or None where that cannot be done cleanly."""
    number = _NUMBER.search(fact)
    if number is None or number.group() in question:
        return None
    old = number.group()
    new = "".join(str((int(digit) + 3) % 9 + 1) if digit.isdigit() else digit for digit in old)
    alone = re.compile(rf"(?<![0-9０-９]){re.escape(old)}(?![0-9０-９])")
    if any(new in text for text in texts) or not any(alone.search(text) for text in texts):
        return None
    return alone.sub(new, fact, count=1), [alone.sub(new, text) for text in texts]
