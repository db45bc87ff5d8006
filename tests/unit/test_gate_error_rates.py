"""How often the gate errs: simulated versions through the real decision code, at the sizes that a run asks."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import pytest

from tuning import gate
from tuning.gate import Margins, Verdict, judge
from tuning.items import BASE, CANDIDATE, CHAMPION, Evaluation, EvaluationItem
from tuning.margins import share_of_look
from tuning.sizes import SMALL, RunSize
from tuning.spec import TrainMessage

PROMPT = (TrainMessage(role="user", content="?"),)
TRIALS = 150
DISCORDANT = {
    "grounding": 0.12, "precision": 0.05, "citation": 0.12, "answering": 0.06, "refusal": 0.12, "finished": 0.03,
    "numbers": 0.06, "language": 0.02, "believing": 0.08, "no_leak": 0.02,
}  # fmt: skip
"""Share of pairs that differ between a version and what it is compared with."""
RIGHT = 0.85
SPREAD = {"likelihood": 0.25, "similarity": 0.12}
Figures = dict[str, dict[str, float]]


def build_items(size: RunSize) -> dict[str, list[EvaluationItem]]:
    def made(kind: str, count: int, **fields: object) -> list[EvaluationItem]:
        return [EvaluationItem(id=f"{kind}{n}", source="probe", prompt=PROMPT, **fields) for n in range(count)]  # type: ignore[arg-type]

    return {
        "answered": made("a", size.answered, expected=(("x",),), gold=(1,), reference="r"),
        "read": made("r", size.read - size.answered, reference="r"),
        "grounded": made("g", size.grounded - size.answered, expected=(("x",),), gold=(1,)),
        "refused": made("u", size.refusals, unanswerable=True),
        "leaks": made("l", size.leaks, leak=True),
        "conflicts": made("c", size.conflicts, conflict=True, expected=(("x",),)),
    }


HAS = {
    "answered": ("grounding", "precision", "citation", "answering", "finished", "numbers", "language"),
    "read": (),
    "grounded": ("grounding", "precision", "citation", "answering", "finished", "numbers", "language"),
    "refused": ("refusal", "finished", "language"),
    "leaks": ("no_leak", "finished"),
    "conflicts": ("believing", "finished", "numbers"),
}


class World:
    """Draws figures of a reference, and of a version that differs from it as told."""

    def __init__(self, size: RunSize, seed: int) -> None:
        self.items = build_items(size)
        self.random = np.random.default_rng(seed)

    def reference(self) -> Figures:
        figures: Figures = {}
        for kind, items in self.items.items():
            for item in items:
                figures[item.id] = {name: float(self.random.random() < RIGHT) for name in HAS[kind]}
                if item.reference:
                    figures[item.id]["likelihood"] = self.random.normal(-2, 0.5)
                if kind == "answered":
                    figures[item.id]["similarity"] = self.random.normal(0.4, 0.1)
        return figures

    def beside(self, reference: Figures, drop: Mapping[str, float], gain: Mapping[str, float]) -> Figures:
        """A version that is worse by `drop` in some shares, equal in the others, and better in style by `gain`."""
        figures: Figures = {}
        for key, known in reference.items():
            mine = figures[key] = {}
            for name, value in known.items():
                if name in SPREAD:
                    mine[name] = value + self.random.normal(gain.get(name, 0.0), SPREAD[name])
                    continue
                lost = drop.get(name, 0.0)
                discordant = max(DISCORDANT[name], lost)
                changes = (discordant + lost) / 2 / RIGHT if value else (discordant - lost) / 2 / (1 - RIGHT)
                mine[name] = 1 - value if self.random.random() < changes else value
        return figures

    def judged(self, figures: Mapping[str, Figures], margins: Margins) -> gate.GateReport:
        """The verdict of the real code on drawn figures: only reading them off texts is left out."""
        systems = {name: {key: SimpleNamespace(text=(name, key)) for key in one} for name, one in figures.items()}
        evaluation = Evaluation.model_construct(
            systems=systems, max_new_tokens=1, device="cpu", precision="float32", seconds=1.0
        )
        items = [item for one in self.items.values() for item in one]
        return judge(items, evaluation, margins=margins)


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figures]:
    """Scores come from here instead of from texts."""
    found: dict[str, Figures] = {}

    def look_up(_item: EvaluationItem, output: SimpleNamespace) -> dict[str, float]:
        system, key = output.text
        return found[system][key]

    monkeypatch.setattr(gate, "score", look_up)
    return found


def promoted(
    drawn: dict[str, Figures], size: RunSize, seed: int, drop: Mapping[str, float], gain: float, *, champion: bool
) -> bool:
    world, rules = World(size, seed), Margins()
    base = world.reference()
    better = {"likelihood": gain * rules.likelihood_gain, "similarity": gain * rules.similarity_gain}
    drawn.clear()
    drawn.update({BASE: base, CANDIDATE: world.beside(base, drop, better)})
    if champion:
        drawn[CHAMPION] = world.beside(drawn[CANDIDATE], {}, {})
    return world.judged(drawn, rules).verdict is Verdict.CANDIDATE


@pytest.mark.parametrize("champion", [False, True])
@pytest.mark.parametrize("size", [SMALL])
def test_an_equal_version_with_twice_the_asked_style_is_rejected_in_5_of_100_at_most(
    drawn: dict[str, Figures], size: RunSize, champion: bool
) -> None:
    rejected = sum(not promoted(drawn, size, seed, {}, 2.0, champion=champion) for seed in range(TRIALS))
    assert rejected <= 0.05 * TRIALS, f"{rejected} of {TRIALS}"


@pytest.mark.parametrize("worse", ["grounding", "citation", "refusal"])
def test_a_version_that_is_worse_by_the_margin_is_promoted_in_5_of_100_at_most(
    drawn: dict[str, Figures], worse: str
) -> None:
    drop = {worse: Margins().margin}
    passed = sum(promoted(drawn, SMALL, 1000 + seed, drop, 20.0, champion=False) for seed in range(TRIALS))
    assert passed <= 0.05 * TRIALS, f"{passed} of {TRIALS}"


def test_looks_share_the_whole_chance_of_error() -> None:
    shares = [share_of_look(look) for look in range(1, 20_001)]
    assert sum(shares) == pytest.approx(1, abs=1e-4) and shares == sorted(shares, reverse=True)
    assert Margins().at_look(4).alpha < Margins().alpha < Margins().total_alpha
