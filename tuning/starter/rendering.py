"""Questions with their retrieved passages to training rows, varied as serving varies.

Every pass over the questions renders them anew: how many passages, in which order, cut how, under which title, and
whether the passage that answers is among them at all. About one row in six must be refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from generation.prompt import PromptPassage, defuse, not_found_text, render_grounded
from tuning.spec import TrainMessage, TrainRow
from tuning.starter.sources import Corpus, SourcePassage, SourceQuestion

_SENTENCE_END = re.compile(r"(?<=[。！？\n])|(?<=[.!?]\s)")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of the variations; each acts on its own."""

    passage_counts: tuple[tuple[int, float], ...] = ((1, 0.08), (2, 0.14), (3, 0.66), (4, 0.08), (5, 0.04))
    """How many passages, with what probability: serving shows three."""
    refused: float = 0.14
    """Answerable questions whose passage is taken away: what is left are the real near misses."""
    unanswerable: float = 0.15
    """Of the questions that their own passage does not answer, how many are used in one pass."""
    shuffled: float = 0.2
    """Rows out of rank order; otherwise the model would cite [1] blindly, which is right nine times in ten."""
    cut: float = 0.7
    """Long Japanese rows whose passages are cut to chunks, as ingest cuts documents; English ones a third of that."""
    max_answer_chars: int = 160
    """Longer answers are clauses rather than answers."""
    max_prompt_bytes: int = 5_600
    """Of the passages in UTF-8; some 3,200 tokens of Japanese. The few longer rows are left out."""


def render_pass(
    corpus: Corpus, ranked: Sequence[Sequence[int]], mixture: Mixture, random: Random, *, share: float = 1.0
) -> Iterator[TrainRow]:
    """One pass over a corpus, in its order; `share` of the questions, drawn at random."""
    for question, order in zip(corpus.questions, ranked, strict=True):
        if random.random() >= share:
            continue
        row = _render(question, corpus.passages, list(order), mixture, random)
        if row is not None:
            yield row


def render_served(question: SourceQuestion, passages: Sequence[SourcePassage], top: Sequence[int]) -> TrainRow:
    """A row as serving would put it: `top` in rank order, nothing varied. Refused when its own passage is absent."""
    shown = [PromptPassage(passages[number].text, passages[number].title) for number in top]
    answered = bool(question.answers) and question.own in top
    return _row(question, shown, list(top).index(question.own) + 1 if answered else None)


def _render(
    question: SourceQuestion, passages: Sequence[SourcePassage], order: list[int], mixture: Mixture, random: Random
) -> TrainRow | None:
    unanswerable = not question.answers
    if unanswerable and random.random() >= mixture.unanswerable:
        return None
    if not unanswerable and len(question.answer) > mixture.max_answer_chars:
        return None
    counts, weights = zip(*mixture.passage_counts, strict=True)
    count = random.choices(counts, weights)[0]
    refused = not unanswerable and random.random() < mixture.refused
    own = question.own
    if refused:
        chosen = [number for number in order if number != own][:count]
    else:
        chosen = order[:count]
        if own not in chosen:
            chosen[random.randrange(len(chosen))] = own
    if random.random() < mixture.shuffled:
        random.shuffle(chosen)
    if not chosen:
        return None
    japanese = _CJK.search(question.text) is not None
    cut = random.random() < (mixture.cut if japanese else mixture.cut / 3)
    title_style = random.random()
    shown = []
    for number in chosen:
        text = passages[number].text
        if cut:
            limit = random.randint(120, 400) if japanese else random.randint(250, 700)
            keep = question.answer if number == own and not unanswerable else None
            text = cut_text(text, limit, keep, random)
        shown.append(PromptPassage(text, _title(passages[number].title, title_style)))
    if sum(len(passage.text.encode()) for passage in shown) > mixture.max_prompt_bytes:
        return None
    return _row(question, shown, None if refused or unanswerable else chosen.index(own) + 1)


def _row(question: SourceQuestion, shown: Sequence[PromptPassage], cited: int | None) -> TrainRow:
    messages = render_grounded(question.text, shown)
    if cited is None:
        completion = not_found_text(question.text)
    else:
        completion = f"{' '.join(defuse(question.answer).split())} [{cited}]"
    prompt = tuple(TrainMessage(role=turn.role, content=turn.content) for turn in messages)
    return TrainRow(prompt=prompt, completion=completion)


def _title(title: str, style: float) -> str | None:
    """The article's title, a file name made of it, or none: serving shows a heading path or a file name."""
    if style < 0.55:
        return title
    if style < 0.7:
        return None
    return f"{title.replace(' ', '_')}{'.txt' if style < 0.85 else '.md'}"


def cut_text(text: str, limit: int, keep: str | None, random: Random) -> str:
    """A run of whole sentences of at most `limit` characters, holding `keep` where given.

    The run that must hold `keep` is longer where one sentence is; text within the limit is returned whole.
    """
    if len(text) <= limit:
        return text
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    holding = [i for i, sentence in enumerate(sentences) if keep and keep in sentence]
    if keep and not holding:
        return text  # the answer crosses a sentence border: leave the passage as it is
    first = last = random.choice(holding) if holding else random.randrange(len(sentences))
    length = len(sentences[first])
    while True:
        sides = [
            side
            for side, number in (("before", first - 1), ("after", last + 1))
            if 0 <= number < len(sentences) and length + len(sentences[number]) <= limit
        ]
        if not sides:
            return "".join(sentences[first : last + 1]).strip()
        if random.choice(sides) == "before":
            first -= 1
            length += len(sentences[first])
        else:
            last += 1
            length += len(sentences[last])
