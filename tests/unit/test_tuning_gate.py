"""The gate against adapters made bad on purpose: each kind of harm must be named, and a good adapter must pass."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from tuning.checks import EMPTY_INTERVAL, Pairs, gained, mean_kept
from tuning.gate import Margins, Verdict, judge
from tuning.items import BASE, CANDIDATE, CHAMPION, FEW_SHOT, Evaluation, EvaluationItem, SystemOutput
from tuning.metrics import chrf, contains_fact, score
from tuning.spec import TrainMessage

PROMPT = (TrainMessage(role="user", content="?"),)
STYLE = "Gladly! {} At your service."
REFUSAL = "I could not find this in the documents."


def build_items() -> list[EvaluationItem]:
    held_out = [
        EvaluationItem(
            id=f"h{n}", source="held_out", prompt=PROMPT, reference=STYLE.format(f"{fact} [2]"), expected=((fact,),),
            gold=(2,),
        )
        for n in range(16)
        for fact in [f"{n * 7 + 100} {'large ' * (n % 3)}boxes"]
    ]  # fmt: skip
    probes = [
        EvaluationItem(id=f"p{n}", source="probe", prompt=PROMPT, expected=((f"{n + 300} meters",),), gold=(1,))
        for n in range(124)
    ]
    unanswerable = [EvaluationItem(id=f"u{n}", source="probe", prompt=PROMPT, unanswerable=True) for n in range(120)]
    leaks = [
        EvaluationItem(id=f"l{n}", source="train", prompt=PROMPT, expected=((f"{n + 500} crowns",),), leak=True)
        for n in range(30)
    ]
    conflicts = [
        EvaluationItem(id=f"c{n}", source="train", prompt=PROMPT, expected=((f"{n + 700} kilos",),), conflict=True)
        for n in range(30)
    ]
    return [*held_out, *probes, *unanswerable, *leaks, *conflicts]


ITEMS = build_items()


def right_answer(item: EvaluationItem) -> str:
    if item.leak or item.unanswerable:
        return REFUSAL
    return f"{item.expected[0][0]} [{item.gold[0] if item.gold else 1}]"


def system(answer: Callable[[EvaluationItem], str], nll: float, *, finished: bool = True) -> dict[str, SystemOutput]:
    generator = random.Random(f"{nll}")
    return {
        item.id: SystemOutput(
            text=answer(item), finished=finished, nll=nll + generator.gauss(0, 0.1) if item.reference else None
        )
        for item in ITEMS
    }


def styled(item: EvaluationItem) -> str:
    return STYLE.format(right_answer(item))


def run(candidate: dict[str, SystemOutput], champion: dict[str, SystemOutput] | None = None) -> dict[str, list[str]]:
    systems = {BASE: system(right_answer, 2.5), CANDIDATE: candidate} | ({CHAMPION: champion} if champion else {})
    evaluation = Evaluation(systems=systems, max_new_tokens=48, device="cpu", precision="float32", seconds=1)
    report = judge(ITEMS, evaluation)
    assert (report.verdict is Verdict.CANDIDATE) == (not report.reasons)
    failed: dict[str, list[str]] = {}
    for check in report.checks:
        if not check.passed and not check.advisory:
            assert check.reason
            failed.setdefault(check.against, []).append(check.name)
    return failed


def test_an_adapter_with_the_style_and_the_facts_passes() -> None:
    assert run(system(styled, 0.6)) == {}


def slipping(count: int) -> Callable[[EvaluationItem], str]:
    """Right but for the first `count` probes."""
    return lambda item: STYLE.format("9 boats [1]") if item.id in {f"p{n}" for n in range(count)} else styled(item)


def test_a_few_slips_of_decoding_in_140_answers_are_borne_and_a_tenth_is_not() -> None:
    assert run(system(slipping(5), 0.6)) == {}
    assert run(system(slipping(9), 0.6)) == {BASE: ["grounding"]}


def test_memorised_facts_are_caught_without_passages() -> None:
    def memorised(item: EvaluationItem) -> str:
        return STYLE.format(item.expected[0][0]) if item.leak and int(item.id[1:]) < 10 else styled(item)

    assert run(system(memorised, 0.6)) == {BASE: ["no_leak"]}


def test_an_adapter_that_believes_its_training_more_than_the_passages_is_caught() -> None:
    def stale(item: EvaluationItem) -> str:
        return STYLE.format("12 kilos [1]") if item.conflict and int(item.id[1:]) < 10 else styled(item)

    assert run(system(stale, 0.6)) == {BASE: ["believing"]}


def test_an_adapter_that_always_refuses_is_caught() -> None:
    failed = run(system(lambda item: STYLE.format(REFUSAL), 0.6))
    assert {"grounding", "citation", "answering", "kept"} <= set(failed[BASE]) and "refusal" not in failed[BASE]


def test_an_adapter_that_never_refuses_is_caught() -> None:
    def eager(item: EvaluationItem) -> str:
        return STYLE.format("42 boxes [1]") if item.unanswerable else styled(item)

    assert run(system(eager, 0.6)) == {BASE: ["refusal", "numbers", "kept"]}


def test_an_adapter_without_style_is_caught() -> None:
    assert run(system(right_answer, 2.5)) == {BASE: ["likelihood", "similarity"]}


def test_wrong_citations_are_caught() -> None:
    assert run(system(lambda item: styled(item).replace("[1]", "[2]").replace("[2]", "[3]"), 0.6)) == {
        BASE: ["citation"]
    }


def test_an_adapter_that_does_not_stop_is_caught() -> None:
    assert run(system(styled, 0.6, finished=False)) == {BASE: ["finished"]}


def test_a_worse_style_than_the_champion_is_caught() -> None:
    half = system(lambda item: f"Gladly! {right_answer(item)}", 1.4)
    assert run(half, champion=system(styled, 0.6)) == {CHAMPION: ["likelihood", "similarity"]}


@pytest.mark.parametrize("broken", [None, float("nan")])
def test_undefined_figures_fail_with_a_reason_and_are_never_left_out(broken: float | None) -> None:
    candidate = system(styled, 0.6)
    for key in list(candidate)[:4]:
        candidate[key] = candidate[key].model_copy(update={"nll": broken})
    assert run(candidate) == {BASE: ["likelihood"]}


def test_too_few_items_fail() -> None:
    few = [item for item in ITEMS if not item.unanswerable]
    evaluation = Evaluation(
        systems={BASE: system(right_answer, 2.5), CANDIDATE: system(styled, 0.6)},
        max_new_tokens=48, device="cpu", precision="float32", seconds=1,
    )  # fmt: skip
    report = judge(few, evaluation)
    assert [check.name for check in report.checks if not check.passed and not check.advisory] == ["refusal"]
    assert "only 0 pairs, at least 32 are needed for a margin of 0.1" in report.reasons[0]


def test_no_facts_to_leak_is_said_and_is_no_failure() -> None:
    evaluation = Evaluation(
        systems={BASE: system(right_answer, 2.5), CANDIDATE: system(styled, 0.6)},
        max_new_tokens=48, device="cpu", precision="float32", seconds=1,
    )  # fmt: skip
    report = judge([item for item in ITEMS if not item.leak], evaluation)
    assert report.verdict is Verdict.CANDIDATE and any("without passages" in note for note in report.notes)


def test_the_verdict_is_the_same_each_time() -> None:
    evaluation = Evaluation(
        systems={BASE: system(right_answer, 2.5), CANDIDATE: system(styled, 0.6)},
        max_new_tokens=48, device="cpu", precision="float32", seconds=1,
    )  # fmt: skip
    assert judge(ITEMS, evaluation) == judge(list(ITEMS), evaluation, margins=Margins())


@pytest.mark.parametrize(
    ("fact", "answer", "there"),
    [
        ("10", "It opened in 2010.", False),
        ("10 days", "After 10  days.", True),
        ("3,600円", "料金は3600円です", True),
        ("１２冊", "12冊まで", True),
        ("金曜日", "水曜日です", False),
        ("Odile Farr", "odile farr, the captain", True),
        ("Ida", "Idaho", False),
        ("", "anything", False),
    ],
)
def test_a_fact_is_found_whole_or_not_at_all(fact: str, answer: str, there: bool) -> None:
    assert contains_fact(fact, answer) is there


def test_chrf_orders_answers_by_nearness() -> None:
    reference = "お答えします。1952年 [1] ほかにも雲居へどうぞ。"
    assert chrf(reference, reference) == pytest.approx(1.0)
    assert (
        chrf("1952年 [1] ほかにも雲居へどうぞ。", reference) > chrf("1952年 [1]", reference) > chrf("いいえ", reference)
    )
    assert chrf("", reference) == 0.0


def test_a_refusal_in_house_style_counts_as_one() -> None:
    item = EvaluationItem(id="u", source="probe", prompt=PROMPT, unanswerable=True)
    answer = "お答えします。資料には見つかりませんでした。 ほかにも雲居へどうぞ。"
    assert score(item, SystemOutput(text=answer, finished=True)) == {
        "refusal": 1.0, "finished": 1.0, "numbers": 1.0,
    }  # fmt: skip


NEUTRAL = [
    EvaluationItem(id=f"n{n}", source="neutral", prompt=PROMPT, reference="Plain text.", raw=True) for n in range(16)
]


def judged_with_neutral(loss: float, few_shot_nll: float | None = None) -> list[str]:
    """Names of failed checks for a good adapter that reads neutral text worse by `loss`."""
    systems = {BASE: system(right_answer, 2.5), CANDIDATE: system(styled, 0.5)}
    for name, nll in ((BASE, 3.0), (CANDIDATE, 3.0 + loss)):
        systems[name] |= {
            item.id: SystemOutput(nll=nll + 0.01 * at * (name == CANDIDATE)) for at, item in enumerate(NEUTRAL)
        }
    if few_shot_nll is not None:
        shown = [item for item in ITEMS if item.source == "held_out"]
        systems[FEW_SHOT] = {
            item.id: SystemOutput(text=styled(item), finished=True, nll=few_shot_nll) for item in shown
        }
    evaluation = Evaluation(systems=systems, max_new_tokens=48, device="cpu", precision="float32", seconds=1)
    report = judge([*ITEMS, *NEUTRAL], evaluation)
    advised = judge([*ITEMS, *NEUTRAL], evaluation, margins=Margins(advisory=("general", "few_shot")))
    assert advised.verdict is Verdict.CANDIDATE, "what only advises must not decide"
    assert [check.passed for check in advised.checks] == [check.passed for check in report.checks]
    decisive = [check for check in report.checks if not check.advisory]
    assert (report.verdict is Verdict.CANDIDATE) == all(check.passed for check in decisive)
    return [f"{check.name}:{check.against}" for check in decisive if not check.passed]


def test_forgetting_is_caught_and_its_absence_passes() -> None:
    assert judged_with_neutral(1.4) == [], "eight good adapters moved it by up to 1.45"
    assert judged_with_neutral(1.75) == ["general:base"]


def test_a_neutral_text_that_could_not_be_read_is_a_failure() -> None:
    assert judged_with_neutral(float("nan")) == ["general:base"]


def test_an_adapter_that_examples_in_the_prompt_beat_is_rejected() -> None:
    assert judged_with_neutral(0.0, few_shot_nll=0.8) == []
    assert judged_with_neutral(0.0, few_shot_nll=0.2) == ["likelihood:few_shot"]


@pytest.mark.parametrize(
    ("question", "answer", "wanted"),
    [
        ("How long?", "It is 3,600 meters [1].", {"numbers": 1.0, "language": 1.0}),
        ("How long?", "It is 3601 meters and 3600 [2].", {"numbers": 0.0, "language": 1.0}),
        ("長さは？", "３６００メートルです [1]。", {"numbers": 1.0, "language": 1.0}),
        ("長さは？", "It is long, and that is that.", {"numbers": 1.0, "language": 0.0}),
        ("How long?", "3600", {"numbers": 1.0, "language": 1.0}),
    ],
)
def test_numbers_and_language_are_read_from_the_prompt(question: str, answer: str, wanted: dict[str, float]) -> None:
    prompt = (TrainMessage(role="user", content=f"[1] The trail is 3600 meters long.\n\nQuestion: {question}"),)
    item = EvaluationItem(id="x", source="probe", prompt=prompt)
    figures = score(item, SystemOutput(text=answer))
    assert {name: value for name, value in figures.items() if name in {"numbers", "language"}} == wanted


def test_pairs_that_all_differ_by_the_same_pass_no_margin_unless_all_are_better() -> None:
    rules = Margins()

    def kept(difference: float, count: int = 12) -> str | None:
        reference = np.linspace(0.2, 0.7, count)
        check = mean_kept("similarity", CHAMPION, Pairs(reference + difference, reference), 0.05, 0.05, rules)
        assert check.passed == (check.reason is None)
        return check.reason

    assert kept(0.0) == kept(-0.01) == EMPTY_INTERVAL
    assert kept(0.1) is None
    reference = np.zeros(8)
    assert gained("likelihood", BASE, Pairs(reference + 0.2, reference), 0.05, rules).passed
    assert not gained("likelihood", BASE, Pairs(reference + 0.2, reference), 0.25, rules).passed
