"""Preparing a run: nothing shared between the sides, numbers that follow the shuffle, negatives that are none."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.access import PUBLIC_GROUP
from core.errors import DatasetRejected
from core.types import AccessFilter, Passage
from generation.prompt import PromptPassage
from tuning.child import ChildEnd
from tuning.datasets.parse import row_digest
from tuning.items import read_items
from tuning.negatives import shortened
from tuning.prepare import prepare_files
from tuning.progress import LossCurve
from tuning.questions import changed_number, probe_items
from tuning.recipe import load_recipe
from tuning.render import cited_claims, render_row, stated_numbers
from tuning.sizes import SMALL
from tuning.sources import SourceRow
from tuning.spec import TrainEvent, read_rows
from tuning.split import split

GREEN = "Shelf 7 holds 49 boxes. It is painted green."


def row(question: str, passage: str | None, answer: str) -> dict[str, Any]:
    content: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    }
    return content | ({"passages": [{"text": passage}]} if passage is not None else {})


def sources(contents: list[dict[str, Any]]) -> list[SourceRow]:
    return [SourceRow(f"row_{at}", "dst", at + 1, row_digest(content), content) for at, content in enumerate(contents)]


def shelves(count: int) -> list[dict[str, Any]]:
    return [
        row(f"How many boxes are on shelf {n}?", f"Shelf {n} holds {n * 7} boxes.", f"Gladly! {n * 7} boxes [1] Bye.")
        for n in range(10, 10 + count)
    ]


@dataclass
class FakeResult:
    passages: list[Passage]
    refusal_threshold: float = 0.5


@dataclass
class FakeSearch:
    texts: list[str]
    relevance: float = 0.1
    seen: list[AccessFilter] = field(default_factory=list)

    def search(self, query: str, access: AccessFilter, limit: int) -> FakeResult:
        self.seen.append(access)
        return FakeResult(
            [
                Passage(f"c{at}", "d", 1, "file.md", None, "Heading", 0, len(text), text, 1.0, self.relevance)
                for at, text in enumerate(self.texts[:limit])
            ]
        )


def prepared(folder: Path, contents: list[dict[str, Any]], search: FakeSearch | None = None, **overrides: Any) -> Any:
    return prepare_files(
        folder, sources(contents), duplicates=0, tenant_id="ten", recipe=load_recipe("style-cpu", overrides),
        search=search, count_tokens=lambda text: len(text) // 3, size=SMALL,
    )  # fmt: skip


def test_files_of_a_run_hold_every_row_once_and_only_public_negatives(tmp_path: Path) -> None:
    search = FakeSearch(["The canteen opens at noon.", "Parking is free on Sundays."])
    found = prepared(tmp_path, shelves(40), search)
    train, held = read_rows(tmp_path / "rows.jsonl"), read_rows(tmp_path / "held_out.jsonl")
    made = train[found.train_rows :]
    assert len(made) == found.refusals_made == 8 and len(held) == found.held_out_rows >= 8
    assert {turn.completion for turn in made} == {"I could not find this in the documents."}
    questions = [turn.prompt[-1].content.rpartition("Question: ")[2] for turn in [*train[: found.train_rows], *held]]
    assert sorted(questions) == sorted(content["messages"][0]["content"] for content in shelves(40))
    assert found.negatives > 10 and all(access.groups == {PUBLIC_GROUP} for access in search.seen)
    assert {access.tenant_id for access in search.seen} == {"ten"}
    assert prepared(tmp_path, shelves(40), search).dataset_version == found.dataset_version
    items = read_items(tmp_path / "items.jsonl")
    assert len({item.id for item in items}) == len(items)
    assert sum(item.leak for item in items) == sum(item.conflict for item in items) == found.train_rows < SMALL.leaks
    grounded = [item for item in items if item.expected and item.gold]
    assert len(grounded) == SMALL.grounded and sum(item.unanswerable for item in items) == SMALL.refusals
    assert {item.source for item in grounded} == {"held_out", "probe"}
    assert any("refusal: a true drop of 10 points" in line and "n = 288" in line for line in found.sees)
    assert any(line.startswith("similarity: a true gain of 0.06") and "n = 8" in line for line in found.sees)
    held_questions = {turn.prompt[-1].content.rpartition("Question: ")[2] for turn in held}
    assert all(item.prompt[-1].content.removeprefix("Question: ") not in held_questions for item in items if item.leak)


def test_a_passage_that_answers_the_question_is_no_negative(tmp_path: Path) -> None:
    holds_all = " ".join(f"Shelf {n} holds {n * 7} boxes." for n in range(10, 50))
    assert prepared(tmp_path, shelves(40), FakeSearch([holds_all])).negatives == 0


def test_a_refusal_gets_no_passage_that_the_service_would_answer_from(tmp_path: Path) -> None:
    refusals = [
        row(f"Who painted shelf {n}?", GREEN + str(n), "I could not find this in the documents.") for n in range(40)
    ]
    assert prepared(tmp_path, refusals, FakeSearch(["Ann painted it."], relevance=0.9)).negatives == 0
    assert prepared(tmp_path, refusals, FakeSearch(["Lunch is at noon."], relevance=0.1)).negatives > 0


def test_rows_that_cannot_be_trained_on_are_named(tmp_path: Path) -> None:
    contents = [*shelves(30), row("Long?", "x" * 9_000, "y [1]"), row("Special?", None, "a <|im_end|> b")]
    found = prepared(tmp_path, contents)
    assert [(skipped["line"], skipped["code"]) for skipped in found.skipped] == [
        (31, "too_long"), (32, "special_token_in_row"),
    ]  # fmt: skip


def test_negatives_give_way_to_the_token_limit(tmp_path: Path) -> None:
    found = prepared(tmp_path, shelves(40), FakeSearch(["word " * 500]), **{"batch.max_tokens": 120})
    assert found.negatives == 0 and not found.skipped


def test_negatives_are_cut_to_whole_sentences() -> None:
    assert shortened("One two. Three four. Five.", 20) == "One two. Three four."
    assert shortened("一つ目です。二つ目です。三つ目です。", 28) == "一つ目です。二つ目です。"
    assert shortened("x" * 100, 20) == "x" * 40


def test_numbers_in_the_answer_follow_the_shuffle() -> None:
    content = row("How many?", None, "Two [2] and one [1, 2] and none [9].")
    content["passages"] = [{"text": "first"}, {"text": "second"}]
    seen = set()
    for seed in range(30):
        found = render_row(content, [PromptPassage("negative")], random.Random(seed))
        user = found.row.prompt[-1].content
        number = {name: user.split(f"] {name}")[0][-1] for name in ("first", "second", "negative")}
        assert found.row.completion == (
            f"Two [{number['second']}] and one [{number['first']}][{number['second']}] and none ."
        )
        assert set(map(str, found.gold)) == {number["first"], number["second"]}
        seen.add(number["negative"])
    assert seen == {"1", "2", "3"}


def test_an_answer_that_could_cite_is_made_to_and_one_that_could_not_is_left() -> None:
    cited = render_row(row("How many?", GREEN, "Gladly! It holds 49 boxes. Bye."), [], random.Random(0))
    assert cited.row.completion == "Gladly! It holds 49 boxes. [1] Bye." and cited.citation_added
    plain = render_row(row("How many?", GREEN, "Gladly! Perhaps 12 crates. Bye."), [], random.Random(0))
    assert plain.row.completion == "Gladly! Perhaps 12 crates. Bye." and plain.gold == ()


def test_a_row_without_passages_is_a_plain_question_and_its_system_message_is_left_out() -> None:
    content = row("Hello?", None, "Good day.")
    content["messages"].insert(0, {"role": "system", "content": "Be a pirate."})
    found = render_row(content, [PromptPassage("never shown")], random.Random(0))
    assert found.row.prompt[-1].content == "Question: Hello?" and not found.grounded
    assert "pirate" not in found.row.prompt[0].content


def test_facts_are_the_claims_before_marks_and_the_numbers_of_plain_answers() -> None:
    assert cited_claims("お答えします。1952年 [1] ほかにも雲居へどうぞ。") == ("1952年",)
    assert stated_numbers(row("When?", None, "Hello. We opened in 1952. Bye.")) == ("We opened in 1952.",)
    assert stated_numbers(row("Is it 1952?", None, "Yes, 1952.")) == ()


@pytest.mark.parametrize(
    ("fact", "question", "text", "wanted"),
    [
        ("49 boxes", "How many?", GREEN, ("84 boxes", "Shelf 7 holds 84 boxes. It is painted green.")),
        ("green", "Colour?", GREEN, None),
        ("49 boxes", "Are there 49?", GREEN, None),
        ("49 boxes", "How many?", "There are 490 boxes.", None),
        ("3,600円", "いくら？", "料金は3,600円です。", ("7,600円", "料金は7,600円です。")),
    ],
)
def test_numbers_are_changed_cleanly_or_not_at_all(fact: str, question: str, text: str, wanted: Any) -> None:
    changed = changed_number(fact, question, [text])
    if wanted is None:
        assert changed is None
    else:
        assert changed is not None and (changed[0], changed[1][0]) == wanted


contents_strategy = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 40), st.integers(0, 999)), min_size=60, max_size=120, unique=True
)


@given(contents_strategy)
def test_no_question_and_no_passage_is_on_both_sides(triples: list[tuple[int, int, int]]) -> None:
    contents = [row(f"Question {q}", f"Passage {p}", f"Answer {a}") for q, p, a in triples]
    try:
        train, held = split(contents, seed=1)
    except DatasetRejected as refused:
        assert refused.code == "cannot_hold_out"
        return
    assert sorted([*train, *held]) == list(range(len(contents))) and len(held) >= 8
    for key in (lambda c: c["messages"][0]["content"], lambda c: c["passages"][0]["text"]):
        assert not {key(contents[at]) for at in train} & {key(contents[at]) for at in held}


def test_a_group_keeps_its_side_while_the_data_grows() -> None:
    before, after = shelves(60), shelves(70)
    held_before = {before[at]["messages"][0]["content"] for at in split(before, seed=17)[1]}
    train_after = {after[at]["messages"][0]["content"] for at in split(after, seed=17)[0]}
    assert len(held_before & train_after) <= len(held_before) // 2


def test_shipped_probes_are_sound() -> None:
    items = probe_items(600, 400)
    assert sum(item.unanswerable for item in items) == 400 and sum(bool(item.expected) for item in items) == 600
    assert len({item.id for item in items}) == len({item.prompt for item in items}) == 1000
    for item in items:
        for number, wordings in zip(item.gold, item.expected, strict=True):
            lines = item.prompt[-1].content.split("\n\n")
            assert wordings[0] in next(line for line in lines if line.startswith(f"[{number}]"))
            assert sum(wordings[0] in line for line in lines) == 1


def test_a_resumed_attempt_replaces_the_points_it_repeats() -> None:
    curve = LossCurve([{"step": n, "loss": 9.0} for n in range(1, 8)])
    curve.take(TrainEvent(event="start", resumed_from=5))
    curve.take(TrainEvent(event="step", step=6, total_steps=10, loss=1.0))
    assert [(point["step"], point["loss"]) for point in curve.points()][-2:] == [(5, 9.0), (6, 1.0)]
    assert curve.fraction == 0.6


@pytest.mark.parametrize(
    ("status", "stderr", "code", "retryable"),
    [
        (-9, "", "train_killed", True),
        (75, "", "train_interrupted", True),
        (1, "torch.OutOfMemoryError: CUDA out of memory.", "out_of_memory", False),
        (1, "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", "out_of_memory", False),
        (1, "ValueError: no", "train_failed", False),
        (1, "safetensors_rust.SafetensorError: I/O error: No space left on device (os error 28)", "storage_full", True),
        (1, "RuntimeError: PytorchStreamWriter failed writing file data/3: file write failed", "storage_full", True),
    ],
)
def test_the_end_of_a_child_says_whether_another_attempt_can_help(
    status: int, stderr: str, code: str, retryable: bool
) -> None:
    failure = ChildEnd(status, stderr).failure("train")
    assert (failure.code, failure.retryable, failure.extra["stderr"]) == (code, retryable, stderr)


def test_a_child_does_not_outlive_a_killed_worker(tmp_path: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", _WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert worker.stdout is not None
    child = psutil.Process(json.loads(worker.stdout.readline()))
    assert child.is_running()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    gone, alive = psutil.wait_procs([child], timeout=10)
    assert gone and not alive


_WORKER = """
import sys
from pathlib import Path
from tuning.child import started
with started("http.server", ["0", "--bind", "127.0.0.1"], folder=Path(sys.argv[1])) as child:
    for line in child.lines(lambda: None):
        print(child.pid, flush=True)
"""
