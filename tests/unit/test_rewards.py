"""Rewards of GRPO and RLOO: what rules pay for, in both languages, and judges that do not answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.settings import JudgeSettings, Settings, TuningSettings
from generation.prompt import not_found_text
from tuning.methods import rewards
from tuning.recipe import load_recipe, parse_recipe
from tuning.requirements import judges_for
from tuning.rubric import Judgement, JudgeReport, Preference, Skip

QUESTION = "営業時間は？"
REFUSAL = not_found_text(QUESTION)


def said(*texts: str) -> list[Any]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_citation_pays_for_the_right_passage_and_its_facts() -> None:
    fact = "営業時間は9時から17時までです"
    answers = [f"{fact} [2]", f"{fact} ［２］", f"{fact} [1]", fact, "存じません [2]", f"{fact} [1][2]"]
    count = len(answers)
    found = rewards.citation(
        completions=said(*answers), facts=[[fact]] * count, gold=[[2]] * count, refusal=[False] * count
    )
    assert found == [1.0, 1.0, 0.0, 0.5, 0.5, 0.0]


def test_citation_of_a_refusal_and_of_a_row_without_passages() -> None:
    found = rewards.citation(
        completions=said(REFUSAL, f"{REFUSAL} [1]", "Hello", "Hello [1]"),
        facts=[[]] * 4, gold=[[]] * 4, refusal=[True, True, False, False],
    )  # fmt: skip
    assert found == [0.0, -0.5, 0.5, -0.5]


def test_refusing_pays_only_where_the_passages_do_not_say() -> None:
    answers = said(REFUSAL, REFUSAL, "At nine.", "At nine.")
    assert rewards.refusal(completions=answers, refusal=[True, False, True, False]) == [1.0, -1.0, -1.0, 1.0]


def test_format_pays_for_an_end_and_for_the_language() -> None:
    pay = rewards.build_format(9)
    found = pay(
        completions=said("はい、9時です。", "At nine.", "はい、"), completion_ids=[[1, 9], [1, 9], [1, 2]],
        reference=["9時でございます。"] * 3,
    )  # fmt: skip
    assert found == [1.0, 0.5, 0.5]


def test_length_costs_beyond_the_bound_in_code_points() -> None:
    assert rewards.build_length(10)(completions=said("あ" * 10, "あ" * 15, "あ" * 50)) == [0.0, -0.5, -1.0]


def test_a_judge_that_gives_no_answer_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ensemble:
        def __init__(self, *_: Any) -> None:
            pass

        def judge(self, pairs: Any) -> JudgeReport:
            assert [(pair.question, pair.reference) for pair in pairs] == [(QUESTION, "9時です")] * 2
            verdict = Judgement("0", 20.0, 15.0, Preference.CANDIDATE, {}, False)
            return JudgeReport("j", [verdict], [Skip("1", "no answer")])

    monkeypatch.setattr(rewards, "Ensemble", Ensemble)
    judge = rewards.build_judge(Settings())
    prompts = [[{"role": "user", "content": QUESTION}]] * 2
    assert judge(prompts=prompts, completions=said("9時", ""), reference=["9時です"] * 2) == [0.8, None]


def test_judges_reach_the_training_process_by_environment_with_their_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = JudgeSettings.model_validate(
        {"url": "http://localhost:1/v1", "model": "m", "family": "qwen", "api_key": "secret"}
    )
    settings = Settings(tuning=TuningSettings(judges=(judge,)))
    assert judges_for(load_recipe("grpo"), settings) == {}
    asked = parse_recipe({**load_recipe("grpo").model_dump(mode="json"), "online": {
        "answers": 2, "new_tokens": 4, "rewards": [{"kind": "judge"}],
    }})  # fmt: skip
    for name, value in judges_for(asked, settings).items():
        monkeypatch.setenv(name, value)
    assert Settings().tuning.judges == (judge,)
    assert "secret" not in json.dumps(asked.model_dump(mode="json"))


PASSAGES = ["営業時間は9時から17時までです。定休日は水曜です。", "駐車場は30台分あります。"]
FACT = "営業時間は9時から17時までです"


@pytest.mark.parametrize(
    ("answer", "worth"),
    [
        (f"{FACT} [1]。", 1.0),
        (f"{FACT}［１］。", 1.0),
        (f"{FACT} [2]。", 0.0),  # right, and cites what does not hold it
        (f"{FACT}。", 0.0),  # right, and cites nothing
        (f"{FACT} [7]。", 0.0),
        ("営業時間は10時から18時までです [1]。", -1.0),
        ("わかりません。", -1.0),
        (REFUSAL, -0.5),
        (f"{FACT} [1]。駐車場は30台分あります [2]。", 1.0 - 1 / 3),  # what nobody asked for: one number in three
    ],
)
def test_grounding_pays_for_right_answers_with_citations_that_hold(answer: str, worth: float) -> None:
    found = rewards.grounding(
        completions=said(answer), reference=[f"{FACT} [1]"], facts=[[FACT]], refusal=[False], passages=[PASSAGES]
    )
    assert found == [pytest.approx(worth)]


def test_grounding_pays_for_refusing_where_the_passage_is_missing_and_for_not_citing_what_is_not_there() -> None:
    answers = [REFUSAL, f"{REFUSAL} [1]", f"{FACT} [1]", "はい。", "はい [1]。"]
    found = rewards.grounding(
        completions=said(*answers), reference=[REFUSAL] * 3 + ["はい。"] * 2, facts=[[]] * 5,
        refusal=[True, True, True, False, False], passages=[PASSAGES[1:]] * 3 + [[]] * 2,
    )  # fmt: skip
    assert found == [1.0, -1.0, -1.0, 0.0, -0.5]


def test_a_grounding_recipe_needs_no_judge_and_no_reward_model() -> None:
    recipe = load_recipe("grounding")
    kinds = {reward.kind: reward.weight for reward in recipe.online.rewards}  # type: ignore[attr-defined]
    assert kinds["grounding"] > sum(weight for kind, weight in kinds.items() if kind != "grounding")
    assert not {"judge", "reward_model"} & set(kinds) and judges_for(recipe, Settings()) == {}
