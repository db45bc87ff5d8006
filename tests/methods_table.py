"""What is shown of every recipe and model family: `python -m tests.methods_table [--run] [--report FILE]`.

Each cell is the outcome of named tests on exactly this source, kept by the suite as it runs (`tests.shown`): `yes`
where all of them passed, `fails` where one did not, `not shown` where one was not run or was skipped. `--run` runs them
first.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.family_chat import CHATS
from tests.shown import REPORT, ROOT, read_results
from tests.tiny_families import FAMILIES
from tuning.recipe import recipe_names

NOT_SHOWN = "not shown"
NOT_MEANT = "-"
_DIRECTIONS = "tests/integration/test_training_directions.py::"
_API = "tests/integration/test_methods_through_api.py::"
_IMITATES = f"{_DIRECTIONS}test_imitation_makes_the_house_answer_likelier_and_no_other"
_PREFERS = f"{_DIRECTIONS}test_preference_raises_the_chosen_answer_and_lowers_the_rejected_one"
_REWARDED = f"{_DIRECTIONS}test_what_is_rewarded_becomes_more_frequent"
_SERVED_KIND = f"{_API}test_every_served_kind_of_adapter_ends_as_an_evaluated_version"
_EXPORTED = f"{_API}test_what_the_engine_cannot_serve_is_refused_and_trained_for_export_alone"
_PREFERRED = f"{_API}test_preference_methods_end_as_evaluated_versions"
_LAUNCHED = "tests/integration/test_launched_training.py::test_two_processes_train_as_one"
_ASKED = "tests/unit/test_served_recipes.py::"
_EVERYWHERE = f"{_ASKED}test_lora_and_what_is_written_as_such_serves_everywhere_within_the_rank"
_MIXED = "tests/integration/test_adapters_against_peft.py::test_every_kind_in_one_batch[plain]"
_WHOLE_WAY = "tests/integration/test_gate_lets_a_good_one_pass.py::test_train_gate_promote_serve_roll_back"


@dataclass(frozen=True, slots=True)
class Shown:
    """The tests that show one thing; none where it is not meant to be so, such as serving a reward model."""

    tests: tuple[str, ...] = ()
    words: str = "yes"

    def cell(self, results: Mapping[str, str]) -> str:
        """What the table says."""
        outcomes = [results.get(test) for test in self.tests]
        if not outcomes:
            return NOT_MEANT if self.words == "yes" else self.words
        if "failed" in outcomes:
            return "fails"
        return self.words if all(outcome == "passed" for outcome in outcomes) else NOT_SHOWN


@dataclass(frozen=True, slots=True)
class RecipeRow:
    """What is claimed of a recipe. `served` names where."""

    direction: Shown
    trained: Shown
    gated: Shown
    served: Shown


def recipe_rows() -> dict[str, RecipeRow]:
    """By name of the recipe, one for each that is packaged."""
    nothing = Shown()
    rows = {name: _style(name) for name in recipe_names() if name.startswith("style-")}
    both = "in process, vLLM"
    for name in ("dpo", "orpo", "kto"):
        api = f"{_PREFERRED}[{name}-{'judgements' if name == 'kto' else 'pairs'}]"
        raises = f"{_DIRECTIONS}test_kto_raises_what_was_judged_good_and_lowers_what_was_judged_bad"
        direction = Shown((raises,)) if name == "kto" else Shown((f"{_PREFERS}[{name}]",))
        rows[name] = RecipeRow(direction, Shown((api,)), Shown((api,)), Shown((api, _EVERYWHERE + "[dpo]"), both))
    steered = f"{_API}test_a_reward_model_and_rules_steer_what_the_model_writes"
    for name in ("grpo", "rloo"):
        rows[name] = RecipeRow(
            Shown((f"{_REWARDED}[{name}]",)), Shown((steered,)), Shown((steered,)),
            Shown((steered, _EVERYWHERE + "[grpo]"), both),
        )  # fmt: skip
    grounded = f"{_DIRECTIONS}test_grounded_answers_become_more_frequent_by_the_matcher_alone"
    rows["grounding"] = RecipeRow(
        Shown((grounded,)), Shown((grounded,)), Shown((steered,)), Shown((steered, _EVERYWHERE + "[grpo]"), both)
    )
    taught = f"{_API}test_a_teacher_corrects_the_students_own_answers"
    rows["distill"] = RecipeRow(
        Shown((f"{_DIRECTIONS}test_a_student_moves_to_its_teacher",)), *[Shown((taught,))] * 2,
        Shown((taught, _EVERYWHERE + "[style-cpu]"), both),
    )  # fmt: skip
    kept = f"{_API}test_a_reward_model_is_kept_with_its_run_and_steers_nothing_unless_it_tells_pairs_apart"
    scored = f"{_DIRECTIONS}test_a_reward_model_scores_unseen_pairs_the_right_way_round"
    rows["reward"] = RecipeRow(Shown((scored,)), Shown((kept,)), nothing, Shown((kept,), "steers GRPO and RLOO"))
    merged = f"{_API}test_versions_are_merged_into_gated_ones_with_the_lineage_of_both"
    exact = "tests/unit/test_merge.py::test_changes_are_added_exactly_also_where_one_adapter_leaves_a_layer_alone"
    rank = f"{_ASKED}test_a_merge_is_asked_with_the_rank_that_it_will_have"
    rows["merge"] = RecipeRow(
        Shown((f"{exact}[cat-None]", f"{exact}[svd-8]")), nothing, Shown((merged,)), Shown((merged, rank), both)
    )
    rows["starter"] = RecipeRow(Shown((f"{_IMITATES}[style-cpu]",)), nothing, nothing, nothing)
    return {name: rows.get(name, RecipeRow(*[Shown(("no test",))] * 4)) for name in recipe_names()}


def _style(name: str) -> RecipeRow:
    imitates = Shown((f"{_IMITATES}[{name}]",))
    both, here = "in process, vLLM", "in process"
    if name in {"style-prefix", "style-prompt"}:
        exported = Shown((f"{_EXPORTED}[{name}]",))
        return RecipeRow(imitates, exported, exported, Shown(exported.tests, "nowhere: for export"))
    if name == "style-then-preference":
        staged = f"{_API}test_a_staged_recipe_takes_answers_and_pairs"
        turned = Shown((f"{_DIRECTIONS}test_a_staged_recipe_imitates_first_and_then_prefers",))
        return RecipeRow(turned, *[Shown((staged,))] * 2, Shown((staged, _EVERYWHERE + "[style-cpu]"), both))
    if name in {"style-ddp", "style-fsdp", "style-zero3"}:
        launched = Shown((f"{_LAUNCHED}[{name.removeprefix('style-')}]",))
        return RecipeRow(
            launched, launched, Shown((_WHOLE_WAY,)), Shown((_WHOLE_WAY, _EVERYWHERE + "[style-cpu]"), both)
        )
    if name in {"style-gpu", "style-8b", "style-8b-4bit"}:
        kind = "style-qlora" if name.endswith("4bit") else "style-cpu"
        version = Shown((f"{_SERVED_KIND}[{kind}]",))
        return RecipeRow(imitates, imitates, version, Shown((*version.tests, f"{_EVERYWHERE}[{kind}]"), both))
    version = Shown((f"{_SERVED_KIND}[{name}]",))
    if name in {"style-dora", "style-bottleneck"}:
        return RecipeRow(imitates, version, version, Shown((*version.tests, _MIXED), here))
    gated = Shown((*version.tests, _WHOLE_WAY)) if name == "style-cpu" else version
    return RecipeRow(imitates, version, gated, Shown((*version.tests, _MIXED, f"{_EVERYWHERE}[{name}]"), both))


def family_rows() -> dict[str, dict[str, Shown]]:
    """By family: what is shown of it on its own template and tokens."""
    chat = "tests/unit/test_family_chat.py::"
    families = "tests/integration/test_model_families.py::"
    decoded = "tests/integration/test_decode_families.py::test_log_probabilities_are_those_of_transformers"
    judged = "tests/integration/test_evaluate_families.py::test_a_padded_batch_says_what_each_item_gets_alone"
    return {
        name: {
            "template": Shown((f"{chat}test_a_prompt_is_what_the_published_template_renders[{name}]",)),
            "defused": Shown(
                (f"{chat}test_no_token_of_the_family_opens_in_a_passage_a_question_or_an_earlier_turn[{name}]",)
            ),
            "trained": Shown((f"{families}test_a_family_trains_saves_and_reloads[{name}]",)),
            "direction": Shown((f"{families}test_what_a_family_was_trained_on_is_what_serving_asks_and_ends[{name}]",)),
            "evaluated": Shown((f"{judged}[{name}]",)),
            "served": Shown((f"{decoded}[{name}-plain]",), "in process"),
        }
        for name in FAMILIES
        if name in CHATS
    }


def named_tests() -> list[str]:
    """Every test that a cell comes from, once."""
    cells = [cell for row in recipe_rows().values() for cell in (row.direction, row.trained, row.gated, row.served)]
    cells += [cell for row in family_rows().values() for cell in row.values()]
    return list(dict.fromkeys(test for cell in cells for test in cell.tests))


def render(results: Mapping[str, str]) -> str:
    """Both tables as Markdown."""
    methods = [["recipe", "direction shown", "trained", "gated", "served where"]]
    for name, row in recipe_rows().items():
        methods.append([name, *(one.cell(results) for one in (row.direction, row.trained, row.gated, row.served))])
    families = [["family", "template", "defused", "trained", "direction shown", "evaluated", "served where"]]
    families += [[name, *(one.cell(results) for one in row.values())] for name, row in family_rows().items()]
    return f"{_markdown(methods)}\n\n{_markdown(families)}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Entry point; see the module. Exit 1 where a cell fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.methods_table", description=__doc__)
    parser.add_argument("--run", action="store_true", help="run the tests of the table first")
    parser.add_argument("--report", type=Path, default=REPORT, help="results to read [%(default)s]")
    given = parser.parse_args(arguments)
    if given.run:
        known = [test for test in named_tests() if test != "no test"]
        subprocess.run([sys.executable, "-m", "pytest", "-q", *known], cwd=ROOT, check=False)
    table = render(read_results(given.report))
    print(table)
    return int(" fails " in table)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
