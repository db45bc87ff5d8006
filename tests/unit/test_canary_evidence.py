"""The sequential test errs as promised, over a hundred seeded trials of each kind, and says why it rolls back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from benchmarks.canary import CHAMPION_RATES, WORSE_RATES
from core.errors import InvalidInput
from generation.adapters.routing import CANARY, CHAMPION, in_canary
from generation.canary.bounds import fewest_conversations, wilson, worse_by_at_most
from generation.canary.monitor import Outcome, decide, figures_of
from generation.canary.policy import Figure, Policy, Promotion, parse_policy
from generation.canary.sequential import LARGEST, Counts, combined, log_evidence

POLICY = Policy()


def trial(seed: int, rates: Mapping[Figure, float], policy: Policy = POLICY) -> tuple[Outcome, int, str | None]:
    """Conversations in the router's arms, looked at every twenty, until the trial ends."""
    random = np.random.default_rng(seed)
    counts: dict = {
        "conversations": {CANARY: 0, CHAMPION: 0},
        "figures": {figure.value: {CANARY: 0, CHAMPION: 0} for figure in Figure},
    }
    for number in range(1, 40 * policy.canary_conversations):
        canary = in_canary("fam", "adv", f"{seed}-{number}", policy.canary_percent)
        arm = CANARY if canary else CHAMPION
        counts["conversations"][arm] += 1
        for figure, rate in (rates if canary else CHAMPION_RATES).items():
            counts["figures"][figure.value][arm] += int(random.random() < rate)
        if number % 20 == 0:
            outcome, reason = decide(figures_of(counts, policy.canary_percent, policy, slow=True), policy)
            if outcome is not Outcome.RUNNING:
                return outcome, counts["conversations"][CANARY], reason
    raise AssertionError("a trial without an end")


def test_a_worse_canary_rolls_back_in_95_of_100_and_an_equal_one_in_5_at_most() -> None:
    worse = [trial(seed, WORSE_RATES) for seed in range(100)]
    equal = [trial(seed, CHAMPION_RATES) for seed in range(100)]
    rolled = [count for outcome, count, _ in worse if outcome is Outcome.ROLLED_BACK]
    assert len(rolled) >= 95
    assert max(rolled) <= POLICY.canary_conversations + 20
    assert sum(outcome is Outcome.ROLLED_BACK for outcome, _, _ in equal) <= 5


def test_a_better_canary_is_left_alone() -> None:
    better = {figure: rate / 3 for figure, rate in CHAMPION_RATES.items()}
    assert all(trial(seed, better)[0] is Outcome.PASSED for seed in range(20))


def test_a_canary_that_always_breaks_off_is_gone_after_a_few_conversations() -> None:
    broken = {**CHAMPION_RATES, Figure.ERROR: 1.0}
    outcome, count, reason = trial(1, broken)
    assert outcome is Outcome.ROLLED_BACK and count <= 20
    assert reason is not None and "mostly by error: 100.0%" in reason


def test_evidence_is_a_martingale_under_equality() -> None:
    """Exact over every way that four conversations can fall: the expectation of the evidence is 1."""
    share, rate = 0.2, 0.3
    total = 0.0
    for code in range(4**4):
        kinds = [(code >> (2 * n)) & 3 for n in range(4)]
        counts = [kinds.count(kind) for kind in range(4)]  # canary event, canary calm, champion event, champion calm
        chances = (share * rate, share * (1 - rate), (1 - share) * rate, (1 - share) * (1 - rate))
        weight = math.prod(chances[kind] for kind in kinds)
        seen = Counts(counts[0] + counts[1], counts[2] + counts[3], counts[0], counts[2])
        total += weight * math.exp(log_evidence(seen, share))
    assert total == pytest.approx(1.0)


def test_evidence_has_no_direction_but_worse_and_never_overflows() -> None:
    assert log_evidence(Counts(0, 0, 0, 0), 0.2) == pytest.approx(0)
    assert log_evidence(Counts(100, 400, 40, 40), 0.2) > 10 > 0 > log_evidence(Counts(100, 400, 5, 200), 0.2)
    assert log_evidence(Counts(10**7, 10**7, 10**7, 0), 0.5) == LARGEST
    assert math.isfinite(log_evidence(Counts(10**7, 10**7, 0, 10**7), 0.5))
    assert combined({}, {}) == 0
    assert combined({"a": 5.0, "b": -3.0}, {"a": 1.0}) == pytest.approx(5.0)


def test_by_rule_a_trial_is_promoted_only_where_a_bound_lies_within_the_margin() -> None:
    rule = Policy(promotion=Promotion.BY_RULE, canary_conversations=400, max_worse=0.05)
    by_hand = Policy(canary_conversations=400)

    def ended(ours: int, theirs: int, policy: Policy = rule) -> tuple[Outcome, str | None]:
        events = {
            "conversations": {CANARY: 400, CHAMPION: 1600},
            "figures": {"down_vote": {CANARY: ours, CHAMPION: theirs}},
        }
        return decide(figures_of(events, 20, policy, slow=False), policy)

    assert ended(16, 64)[0] is Outcome.PROMOTED
    assert ended(16, 64, by_hand)[0] is Outcome.PASSED
    outcome, reason = ended(31, 64)
    assert outcome is Outcome.PASSED, "four points were seen, which may be more than five"
    assert reason is not None and "down_vote 7.8% against 4.0%, worse by 6." in reason
    alone = {"conversations": {CANARY: 400, CHAMPION: 0}, "figures": {}}
    assert decide(figures_of(alone, 20, rule, slow=False), rule)[0] is Outcome.PASSED, "nothing to compare with"


def test_a_canary_worse_by_the_margin_is_promoted_in_5_of_100_at_most() -> None:
    random = np.random.default_rng(5)
    ours, theirs = random.binomial(400, 0.15, 4000), random.binomial(1600, 0.10, 4000)
    within = [worse_by_at_most(int(a), 400, int(b), 1600) <= 0.05 for a, b in zip(ours, theirs, strict=True)]  # type: ignore[operator]
    assert 0.02 < np.mean(within) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 4000)
    assert worse_by_at_most(0, 0, 4, 80) is None
    least = fewest_conversations(0.05)
    assert least == 52 and fewest_conversations(0) is None
    assert wilson(0, least)[1] <= 0.05 < wilson(0, least - 1)[1]


@pytest.mark.parametrize(
    "body",
    [
        {"weights": {"down_vote": 0}},
        {"weights": {"smell": 1}},
        {"false_alarm": 0},
        {"canary_percent": 60},
        {"groups": []},
        {"groups": ["*"]},
        {"surprise": 1},
        {"promotion": "by_rule", "canary_conversations": 40},
        {"promotion": "by_rule", "max_worse": 0},
    ],
)
def test_a_policy_that_cannot_work_is_refused(body: dict) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_policy(body)
    assert refused.value.code == "invalid_policy" and refused.value.errors
