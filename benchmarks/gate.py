"""Which adapters pass the gate? Eight good ones and eight made bad on purpose: `python -m benchmarks.gate`.

Good ones are trained by the product's own trainer on the real base: four styles, two seeds. Bad ones are what goes
wrong in practice. Each is put before the checks of registration and loading, and then before the gate with its run's
questions.
There are two groups with no style or seed in common: margins are set by looking at `--group margins`; what is reported
comes from `--group report`, which no margin has seen. Adapters whose manifest was made to give them away are shown, and
count as nothing.

Prints a table with false promotions and false rejections; exit 1 if a bad one passed, was rejected for another reason
than its own, or more than one good one was rejected. `--group margins` prints how near each check came instead. Ready
adapters are kept in --work and found again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.gate_workshop import Kind, Workshop, evaluated
from benchmarks.gate_world import GROUPS, NAMES_SEED
from core.errors import AdapterRefused, TsumugiError
from core.settings import load_settings
from generation.adapters.checks import check_servable
from generation.adapters.fingerprint import measure_adapter
from generation.adapters.manifest import verify
from generation.build import build_base
from generation.models import BaseModelInfo, describe_base
from tuning.gate import Check, GateReport, Margins, Verdict, judge
from tuning.items import BASE, CANDIDATE, FEW_SHOT, Evaluation, read_items
from tuning.prepare import ITEMS_FILE

SEEDS = {"margins": (1, 2), "report": (3, 4)}
WAYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("stop-unsupervised", ("finished",)),
    ("memorised", ("no_leak",)),
    ("shuffled-weights", ("likelihood", "similarity", "general", "grounding")),
    ("lists-numbers", ("precision",)),
    ("stale-facts", ("believing",)),
    ("other-language", ("language",)),
    ("refuses-everything", ("answering",)),
    ("names-by-heart", ("no_leak",)),
)
"""{way to go wrong: checks of which one must name it}, two of them for each style of a group."""
GIVEN_AWAY = (
    ("wrong-template", ("adapter_wrong_template",)),
    ("other-base", ("adapter_wrong_base",)),
)


def kinds_of(group: str) -> list[Kind]:
    """Bad adapters of a group, those given away by their manifest last."""
    styles, seed = GROUPS[group], SEEDS[group][0]
    found = [
        Kind(name, styles[at // 2], NAMES_SEED + seed if name == "names-by-heart" else seed, reasons)
        for at, (name, reasons) in enumerate(WAYS)
    ]
    return found + [
        Kind(name, styles[at], seed, reasons, planted=True) for at, (name, reasons) in enumerate(GIVEN_AWAY)
    ]


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table."""

    adapter: str
    good: bool
    planted: bool
    verdict: str
    as_expected: bool
    reasons: list[str]
    checks: list[Check] = field(default_factory=list, repr=False)


def admitted(folder: Path, base: BaseModelInfo) -> str | None:
    """What registration and loading refuse it for; None when it may go before the gate."""
    try:
        verify(folder, base)
        check_servable(folder, base.path)
        measure_adapter(base.path, folder)
    except AdapterRefused as refused:
        return f"{refused.code}: {refused.detail}"
    return None


def judged(shop: Workshop, style: str, seed: int, name: str, evaluation: Evaluation, margins: Margins) -> GateReport:
    """The gate's verdict on one of the evaluated adapters."""
    items = read_items(shop.prepared(style, seed) / ITEMS_FILE)
    systems = {BASE: evaluation.systems[BASE], CANDIDATE: evaluation.systems[name]}
    systems[FEW_SHOT] = evaluation.systems[FEW_SHOT]
    return judge(items, evaluation.model_copy(update={"systems": systems}), margins=margins)


def run_style(shop: Workshop, group: str, style: str, margins: Margins, say: Callable[[str], None]) -> list[Line]:
    """Make, admit, evaluate and judge the adapters of a style."""
    lines: list[Line] = []
    kinds = {f"bad-{kind.name}": kind for kind in kinds_of(group) if kind.style == style}
    folders: dict[str, tuple[int, Path]] = {}
    for seed in SEEDS[group]:
        folders[f"good-{style}-{seed}"] = (seed, shop.good(style, seed))
        say(f"good-{style}-{seed} is trained")
    for name, kind in kinds.items():
        folders[name] = (kind.seed, shop.bad(kind))
        say(f"{name} is made")
    gated: dict[int, dict[str, Path]] = defaultdict(dict)
    for name, (seed, folder) in folders.items():
        refused = admitted(folder, shop.base)
        if refused is None:
            gated[seed][name] = folder
            continue
        bad = kinds.get(name)
        expected = bad is not None and any(refused.startswith(reason) for reason in bad.reasons)
        lines.append(Line(name, bad is None, bad is not None and bad.planted, "refused", expected, [refused]))
    for seed, adapters in gated.items():
        evaluation = evaluated(shop, style, seed, adapters)
        say(f"{style}, seed {seed}: {len(adapters)} adapters evaluated")
        for name in adapters:
            report = judged(shop, style, seed, name, evaluation, margins)
            bad = kinds.get(name)
            expected = (report.verdict is Verdict.CANDIDATE) == (bad is None)
            if bad is not None:
                expected = expected and not {one.partition(" ")[0] for one in report.reasons}.isdisjoint(bad.reasons)
            lines.append(
                Line(
                    name, bad is None, bad is not None and bad.planted, report.verdict.value, expected, report.reasons,
                    report.checks,
                )
            )  # fmt: skip
    return lines


def nearness(lines: Sequence[Line]) -> list[str]:
    """For each check what its bound was at worst among the good ones, and at best among the bad ones it must name."""
    named = {f"bad-{name}": reasons for name, reasons in WAYS}
    good, bad = defaultdict(list), defaultdict(list)
    for line in lines:
        for check in line.checks:
            if check.ci_low is None or check.against != BASE:
                continue
            if line.good:
                good[check.name].append(check.ci_low)
            elif check.name in named.get(line.adapter, ()):
                bad[check.name].append(check.ci_low)
    margin = {check.name: check.margin for line in lines for check in line.checks}
    return [
        f"{name:12} margin {margin[name]:.2f}; good ones' bounds from {min(values):+.3f}; bad ones' up to "
        + (f"{max(bad[name]):+.3f}" if bad[name] else "none")
        for name, values in sorted(good.items())
    ]


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("./.tsumugi/gate-benchmark"), help="where adapters are kept")
    parser.add_argument("--base", type=Path, help="folder of a prepared base [default: the product's, made in --work]")
    parser.add_argument("--group", choices=sorted(GROUPS), default="report", help="which adapters [default: report]")
    parser.add_argument("--styles", nargs="*", help="only these styles of the group")
    parser.add_argument("--steps", type=int, help="steps of a good adapter [default: the recipe's]")
    parser.add_argument("--json", type=Path, help="write the table here")
    arguments = parser.parse_args()
    styles = arguments.styles or list(GROUPS[arguments.group])
    if not set(styles) <= set(GROUPS[arguments.group]):
        parser.error(f"styles of this group: {', '.join(GROUPS[arguments.group])}")
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:6.0f} s] {text}", file=sys.stderr, flush=True)

    work = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    settings = load_settings(data_dir=work)
    base = build_base(settings) if arguments.base is None else describe_base(arguments.base.resolve(), "base")
    say(f"base {base.name} is ready")
    shop = Workshop(work, base, arguments.steps)
    try:
        lines = [line for style in styles for line in run_style(shop, arguments.group, style, Margins(), say)]
    except TsumugiError as error:
        print(f"{error.code}: {error.detail}", file=sys.stderr)
        return 1
    for line in sorted(lines, key=lambda one: (one.planted, one.good, one.adapter)):
        mark = "given away" if line.planted else "as expected" if line.as_expected else "NOT as expected"
        print(f"{line.adapter:28} {line.verdict:10} {mark:16} {'; '.join(line.reasons)[:240]}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(line) for line in lines], ensure_ascii=False, indent=1), "utf-8")
    if arguments.group == "margins":
        print("\n".join(nearness(lines)))
        return 0
    return told(lines, time.monotonic() - begun)


def told(lines: Sequence[Line], seconds: float) -> int:
    """Print both error rates; 1 where they are too high. Adapters given away by their manifest are in neither."""
    bad = [line for line in lines if not line.good and not line.planted]
    good = [line for line in lines if line.good]
    passed = sum(line.verdict == Verdict.CANDIDATE.value for line in bad)
    unnamed = sum(line.verdict != Verdict.CANDIDATE.value and not line.as_expected for line in bad)
    lost = sum(not line.as_expected for line in good)
    print(
        f"false promotions {passed} of {len(bad)}, false rejections {lost} of {len(good)}; {unnamed} bad ones rejected "
        f"for another reason than their own; {seconds:.0f} s"
    )
    return int(passed > 0 or unnamed > 0 or lost > 1)


if __name__ == "__main__":
    sys.exit(main())
