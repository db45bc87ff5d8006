"""What an answer is worth to GRPO and RLOO: rules, a reward model of ours, judges. Each term is about within [-1, 1].

Rules look at what the row is known to need: the facts and the passages that hold them, or a refusal. An answer is
compared with others to the same prompt, so only differences count, and a term that is the same for all teaches nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import InvalidInput, Unavailable
from core.language import language_of
from core.settings import Settings
from generation.chat import ChatFormat
from generation.citations import MARKER, cited_stretches, find_support
from generation.prompt import is_not_found
from tuning.recipe_parts import Reward
from tuning.rubric import Ensemble, Pair
from tuning.spec import RewardSource

RewardFunction = Callable[..., list[float | None]]
"""Called by TRL with `prompts`, `completions` (lists of turns), `completion_ids`, and the rows' columns by name."""

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_FULL_MARKS = 25.0
"""Five criteria of five points each."""


def citation(*, completions: Sequence[Any], facts: Any, gold: Any, refusal: Any, **_: Any) -> list[float | None]:
    """Half for citing passages that hold the answer and no others, half for the share of facts that it states."""
    found: list[float | None] = []
    for turns, wanted, holders, refuse in zip(completions, facts, gold, refusal, strict=True):
        text = text_of(turns)
        cited = cited_numbers(text)
        if refuse:
            found.append(-0.5 if cited else 0.0)
        elif not holders:
            found.append(-0.5 if cited else 0.5)  # a row without passages: there is nothing to cite
        else:
            right = bool(cited) and cited <= set(holders)
            stated = sum(find_support(fact, text)[2] for fact in wanted) / len(wanted) if wanted else 1.0
            found.append(0.5 * right + 0.5 * stated - (0.5 if cited - set(holders) else 0.0))
    return found


def grounding(
    *, completions: Sequence[Any], reference: Any, facts: Any, refusal: Any, passages: Any, **_: Any
) -> list[float | None]:
    """Whether an answer is grounded, by the matcher that verifies citations in serving; no model judges.

    Of a row that its passages answer: -1, plus what is right (share of the facts that it states, times the share of its
    numbers that belong to them), plus what is verified (share of its cited stretches that a passage they cite carries):
    a right answer without a citation, or with one that holds nothing of it, is worth no more than half. Refusing there
    is -0.5: better than what is wrong. Of a row that they do not answer: 1 for refusing, -1 for anything else. A row
    without passages has nothing to cite: -0.5 where it does.
    """
    return [
        _grounded(text_of(turns), wanted, stated, bool(refuse), shown)
        for turns, wanted, stated, refuse, shown in zip(completions, reference, facts, refusal, passages, strict=True)
    ]


def _grounded(text: str, reference: str, facts: Sequence[str], refuse: bool, passages: Sequence[str]) -> float:
    stretches = [(text[start:end], numbers) for start, end, numbers in cited_stretches(text)]
    refuses = is_not_found(text)
    if refuse:
        return 1.0 if refuses and not stretches else -1.0
    if not passages:
        return -0.5 if stretches else 0.0
    if refuses:
        return -0.5
    stated = sum(find_support(fact, text)[2] for fact in facts) / len(facts) if facts else 1.0
    numbers, known = (set(_NUMBER.findall(_plain(one))) for one in (text, " ".join([reference, *facts])))
    exact = len(numbers & known) / len(numbers) if numbers else 1.0
    carried = [
        any(1 <= number <= len(passages) and find_support(claim, passages[number - 1])[2] for number in cited)
        for claim, cited in stretches
    ]
    return -1.0 + stated * exact + (sum(carried) / len(carried) if carried else 0.0)


def _plain(text: str) -> str:
    """Without citation marks, digits of one width."""
    return unicodedata.normalize("NFKC", MARKER.sub(" ", text))


def refusal(*, completions: Sequence[Any], refusal: Any, **_: Any) -> list[float | None]:
    """1 for refusing where the passages do not say and answering where they do, -1 for the contrary."""
    return [
        1.0 if is_not_found(text_of(turns)) == bool(wanted) else -1.0
        for turns, wanted in zip(completions, refusal, strict=True)
    ]


def build_format(stop_id: int) -> RewardFunction:
    """Half for ending by itself, half for keeping the language of the house's answer."""

    def format_(
        *, completions: Sequence[Any], completion_ids: Sequence[Any], reference: Any, **_: Any
    ) -> list[float | None]:
        return [
            0.5 * (stop_id in ids) + 0.5 * (language_of(text_of(turns)) is language_of(wanted))
            for turns, ids, wanted in zip(completions, completion_ids, reference, strict=True)
        ]

    return format_


def build_length(max_chars: int) -> RewardFunction:
    """0 within `max_chars` code points, then downwards in proportion, to -1 at twice as many."""

    def length(*, completions: Sequence[Any], **_: Any) -> list[float | None]:
        return [-min(1.0, max(0.0, len(text_of(turns)) / max_chars - 1.0)) for turns in completions]

    return length


def build_reward_model(base_path: Path, folder: Path, tokenizer: Any, stop: str, device: Any) -> RewardFunction:
    """The score of a reward model of ours, squashed to (-1, 1): rules and models are then of one size."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(base_path, num_labels=1)
    base.config.pad_token_id = tokenizer.pad_token_id
    chat = ChatFormat.of(tokenizer)
    model: Any = PeftModel.from_pretrained(base, folder, use_safetensors=True).eval().to(device)

    def reward_model(*, prompts: Sequence[Any], completions: Sequence[Any], **_: Any) -> list[float | None]:
        texts = [
            chat.render(prompt) + chat.lead + text_of(turns).strip() + stop
            for prompt, turns in zip(prompts, completions, strict=True)
        ]
        inputs = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        with torch.inference_mode():
            scores = model(**inputs.to(device)).logits[:, 0].float()
        return [float(score) for score in torch.tanh(scores)]

    return reward_model


def build_judge(settings: Settings) -> RewardFunction:
    """The share of full marks that the judges of the settings give; None, which adds nothing, where none answers."""
    ensemble = Ensemble(settings.tuning.judges, settings.tuning.tuned_model_family)

    def judge(
        *, prompts: Sequence[Any], completions: Sequence[Any], reference: Sequence[str], **_: Any
    ) -> list[float | None]:
        pairs = [
            Pair(str(at), prompts[at][-1]["content"], "", text_of(turns) or " ", reference[at])
            for at, turns in enumerate(completions)
        ]
        try:
            judged = ensemble.judge(pairs).judgements
        except Unavailable:
            return [None] * len(completions)
        scores = {one.id: one.candidate / _FULL_MARKS for one in judged}
        return [scores.get(str(at)) for at in range(len(completions))]

    return judge


def build_rewards(
    rewards: Sequence[Reward],
    *,
    tokenizer: Any,
    base_path: Path,
    sources: Sequence[RewardSource],
    device: Any,
) -> list[RewardFunction]:
    """The functions of a recipe's terms, in order.

    Raises:
        InvalidInput: `invalid_train_spec`, a reward model's files are not named; see `Ensemble` for judges.
    """
    folders = {source.run: source.path for source in sources}
    makers: Mapping[str, Callable[[Reward], RewardFunction]] = {
        "grounding": lambda _: grounding,
        "citation": lambda _: citation,
        "refusal": lambda _: refusal,
        "format": lambda _: build_format(int(tokenizer.eos_token_id)),
        "length": lambda one: build_length(one.max_chars or 1),
        "reward_model": lambda one: build_reward_model(
            base_path, _named(folders, one.run), tokenizer, str(tokenizer.eos_token), device
        ),
        "judge": lambda _: build_judge(Settings()),
    }
    return [makers[reward.kind](reward) for reward in rewards]


def _named(folders: Mapping[str, Path], run: str | None) -> Path:
    if run is None or run not in folders:
        raise InvalidInput(f"the spec names no files of the reward model of '{run}'", code="invalid_train_spec")
    return folders[run]


def text_of(turns: Any) -> str:
    """The answer of a completion as TRL hands it over: a list of turns."""
    return str(turns[-1]["content"])


def cited_numbers(text: str) -> set[int]:
    """Passage numbers that a text cites; full-width digits count."""
    return {
        int(number)
        for match in MARKER.finditer(text)
        for number in re.findall(r"\d+", unicodedata.normalize("NFKC", match.group(1)))
    }
