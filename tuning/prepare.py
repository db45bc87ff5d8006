"""Rows, prompts and questions of a run, made where the index lives and kept as files of the run."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.errors import DatasetRejected, FieldError
from tuning.chain import Parent, common_audience, replayed
from tuning.datasets.near import near_pairs
from tuning.document_questions import DocumentPassage, document_items
from tuning.items import EvaluationItem, write_lines
from tuning.judged import as_answered, is_shown, judged_refusal, render_judged
from tuning.margins import Margins
from tuning.negatives import Negatives, Search
from tuning.questions import (
    conflict_items,
    held_out_items,
    leak_items,
    neutral_items,
    probe_items,
    refused_items,
    with_examples,
)
from tuning.recipe import Recipe
from tuning.refusals import MadeRefusal, in_house_words, make_refusals
from tuning.render import RenderedRow, answer_of, render_row
from tuning.seeing import what_is_seen
from tuning.sizes import RunSize
from tuning.sources import SourceRow, dataset_version
from tuning.spec import TrainRow
from tuning.split import split

ROWS_FILE = "rows.jsonl"
HELD_OUT_FILE = "held_out.jsonl"
ITEMS_FILE = "items.jsonl"
BUNDLE = (ROWS_FILE, HELD_OUT_FILE, ITEMS_FILE)

SEED = 17
MIN_TRAIN_ROWS = 8
_TURN_TOKENS = 8
"""What the chat template puts around a turn, generously."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What preparing found; shown with the run."""

    dataset_version: str
    rows: int
    train_rows: int
    held_out_rows: int
    duplicates: int
    skipped: list[dict[str, Any]] = field(default_factory=list)
    """Rows left out: {row, dataset, line, code, detail}"""
    grounded_rows: int = 0
    refusals: int = 0
    """Rows of the datasets that refuse; their wording is the service's own from here on."""
    refusals_made: int = 0
    negatives: int = 0
    citations_added: int = 0
    items: dict[str, int] = field(default_factory=dict)
    audience: list[str] | None = None
    """Groups that the family serves, where rows were used that others may not read."""
    parent: str | None = None
    """FAMILY@VERSION that training starts from."""
    replayed: int = 0
    """Rows of earlier runs that are shown again."""
    parts: dict[str, str] = field(default_factory=dict, repr=False)
    """{row id: train or held_out}; kept in `run_rows`, not shown."""
    negative_documents: list[tuple[str, int]] = field(default_factory=list, repr=False)
    """(document, generation) of passages that were put beside; kept in `run_documents`, not shown."""
    evaluated_documents: list[tuple[str, int]] = field(default_factory=list, repr=False)
    """(document, generation) of passages that the gate asks about and nothing learns from; kept there too."""
    sees: list[str] = field(default_factory=list)
    """What the gate can see with these items, a line for each figure."""

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        shown = asdict(self)
        del shown["parts"], shown["negative_documents"], shown["evaluated_documents"]
        return shown


def prepare_files(
    folder: Path,
    source: Sequence[SourceRow],
    *,
    duplicates: int,
    tenant_id: str,
    recipe: Recipe,
    search: Search | None,
    count_tokens: Callable[[str], int],
    size: RunSize,
    step: Callable[[float], None] = lambda _fraction: None,
    look: Callable[[], None] = lambda: None,
    left_out: Sequence[dict[str, Any]] = (),
    audience: Sequence[str] | None = None,
    trained: Sequence[SourceRow] = (),
    parent: Parent | None = None,
    passages: Sequence[DocumentPassage] = (),
    margins: Margins | None = None,
    holds_control: Callable[[str], bool] = lambda text: "<|" in text,
) -> Preparation:
    """Write training rows, held-out rows and evaluation items below `folder`.

    search: None where this tenant has no index; rows then get no negatives. step: called with the share done, and look
    in between; they may raise to stop. trained: rows that `parent` and its ancestors were trained on; a share of them
    is shown again, and none of them is held out. passages: of the tenant's documents; the gate asks about them.
    margins: of the gate that follows. holds_control: whether a text holds a token of the base's template.

    Raises:
        DatasetRejected: too few rows are left (`too_few_rows`), or they cannot be split (`cannot_hold_out`).
    """
    again = replayed(source, trained, recipe.data.replay_share, SEED)
    fitting, skipped = _fitting(
        [as_answered(row) for row in [*source, *again]], recipe, count_tokens, holds_control, look
    )
    shipped = probe_items(size.grounded, size.refusals)
    fitting, leaking = _without_leaks(fitting, shipped, look)
    skipped += leaking
    if len(fitting) < MIN_TRAIN_ROWS * 2:
        raise _too_few(len(fitting), len(source) + len(again) + len(left_out), [*left_out, *skipped])
    contents = [in_house_words(row.content) for row in fitting]
    train_at, held_at = _split(fitting, trained, look)
    made = make_refusals([contents[at] for at in train_at], recipe.data.refusal_share, random.Random(SEED))
    asked = make_refusals([contents[at] for at in held_at], 0.5, random.Random(SEED))[: size.refused]
    negatives = Negatives(search, tenant_id, size)
    render = _Renderer(negatives, recipe.batch.max_tokens, count_tokens)
    rendered: dict[int, RenderedRow] = {}
    for at in [*train_at, *held_at]:
        rendered[at] = render(contents[at], contents[at], fitting[at].digest)
        step(len(rendered) / (len(fitting) + 1))

    def refused(part: Sequence[int], found: Sequence[MadeRefusal]) -> list[RenderedRow]:
        return [
            render(
                judged_refusal(one, contents[part[one.of]]),
                contents[part[one.of]],
                f"refused:{fitting[part[one.of]].digest}",
            )
            for one in found
        ]

    made_rows, asked_rows = refused(train_at, made), refused(held_at, asked)
    step(1.0)
    shown_train = [at for at in train_at if is_shown(contents[at])]
    shown_held = [at for at in held_at if is_shown(contents[at])]
    held_out = held_out_items([(fitting[at], rendered[at]) for at in shown_held], size, count_tokens)
    # Short ones: the base is to be shown the style, and its prompt has to stay within what it was made for.
    examples = sorted((rendered[at].row for at in shown_train if not rendered[at].refusal), key=_row_chars)
    texts = [text for content in contents for text in _texts_of(content)]
    asked_of_documents, documents = document_items(passages, size.documents, trained=texts)
    items = [
        *with_examples(held_out[: size.with_examples], examples, size.examples),
        *held_out[size.with_examples :],
        *neutral_items(),
        *refused_items(asked_rows),
        *leak_items([(fitting[at], rendered[at]) for at in shown_train], size),
        *conflict_items([(fitting[at], rendered[at]) for at in shown_train], size),
        *asked_of_documents,
    ]
    items += _filled_up(items, held_out[: size.answered], size)
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / ROWS_FILE, [*(rendered[at].row for at in train_at), *(row.row for row in made_rows)])
    write_lines(folder / HELD_OUT_FILE, [rendered[at].row for at in held_at])
    write_lines(folder / ITEMS_FILE, items)
    return Preparation(
        dataset_version=dataset_version(fitting),
        rows=len(source) + len(again) + len(left_out),
        train_rows=len(train_at),
        held_out_rows=len(held_at),
        duplicates=duplicates,
        skipped=[*left_out, *skipped],
        grounded_rows=sum(row.grounded for row in rendered.values()),
        refusals=sum(row.refusal for row in rendered.values()),
        refusals_made=len(made),
        negatives=render.shown,
        citations_added=sum(row.citation_added for row in rendered.values()),
        items=dict(Counter(item.source for item in items)),
        audience=common_audience(
            list(audience) if audience and any(row.lineage.get("groups") for row in fitting) else None,
            parent.audience if parent is not None else None,
        ),
        parent=parent.stamp if parent is not None else None,
        replayed=len({row.id for row in fitting} & {row.id for row in again}),
        parts={fitting[at].id: "train" for at in train_at} | {fitting[at].id: "held_out" for at in held_at},
        negative_documents=sorted(negatives.documents),
        evaluated_documents=sorted(documents),
        sees=what_is_seen(items, {item.id for item in held_out[size.answered :]}, margins or Margins()),
    )


def _filled_up(
    items: Sequence[EvaluationItem], answered: Sequence[EvaluationItem], size: RunSize
) -> list[EvaluationItem]:
    """Shipped probes for what the tenant's own items leave open of each figure."""
    asked = [*answered, *(item for item in items if item.source in {"document", "refused"})]
    grounded = sum(bool(item.expected and item.gold) and not item.unanswerable for item in asked)
    refusals = sum(item.unanswerable for item in asked)
    return probe_items(size.grounded - grounded, size.refusals - refusals)


def _texts_of(content: Mapping[str, Any]) -> list[str]:
    return [answer_of(content), *(passage["text"] for passage in content.get("passages", []))]


def _split(
    fitting: Sequence[SourceRow], trained: Sequence[SourceRow], look: Callable[[], None]
) -> tuple[list[int], list[int]]:
    """Training and held-out positions in `fitting`; what an old row, shown again or not, was about is not held out."""
    old = {row.digest for row in trained}
    present = {row.digest for row in fitting}
    rest = [row for row in trained if row.digest not in present]
    known = [at for at, row in enumerate(fitting) if row.digest in old]
    contents = [row.content for row in [*fitting, *rest]]
    train, held = split(contents, seed=SEED, trained=[*known, *range(len(fitting), len(contents))], look=look)
    return [at for at in train if at < len(fitting)], held


def _too_few(usable: int, rows: int, skipped: Sequence[dict[str, Any]]) -> DatasetRejected:
    """The error that says why rows were left out: how many for each reason, and the first of them in words."""
    counts = Counter(str(one["code"]) for one in skipped)
    detail = f"{usable} of {rows} rows can be used, {MIN_TRAIN_ROWS * 2} are needed"
    if skipped:
        reasons = ", ".join(f"{count} {code}" for code, count in counts.most_common())
        detail += f"; left out: {reasons}; first: line {skipped[0]['line']}: {skipped[0]['detail']}"
    return DatasetRejected(
        detail,
        code="too_few_rows",
        errors=[FieldError(f"line {one['line']}", str(one["detail"]), str(one["code"])) for one in skipped[:20]],
        extra={"skipped": list(skipped[:20]), "reasons": dict(counts)},
    )


def _row_chars(row: TrainRow) -> int:
    return sum(len(turn.content) for turn in row.prompt) + len(row.completion)


class _Renderer:
    """Rows with negatives that fit the token limit; `shown` counts those negatives."""

    def __init__(self, negatives: Negatives, max_tokens: int, count_tokens: Callable[[str], int]) -> None:
        self._negatives = negatives
        self._max_tokens = max_tokens
        self._count_tokens = count_tokens
        self.shown = 0

    def __call__(self, content: Mapping[str, Any], origin: Mapping[str, Any], seed: str) -> RenderedRow:
        """The row for `content`, with passages that do not answer `origin`."""
        generator = random.Random(f"{SEED}:{seed}")
        found = self._negatives.of(origin, generator)
        row = render_judged(content, found, generator)
        while found and _tokens(row.row, self._count_tokens) > self._max_tokens:
            found = found[:-1]
            row = render_judged(content, found, generator)
        self.shown += len(found)
        return row


def token_counter(base_path: Path) -> Callable[[str], int]:
    """Counts with the base's own tokenizer, without torch."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base_path / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _fitting(
    source: Sequence[SourceRow],
    recipe: Recipe,
    count_tokens: Callable[[str], int],
    holds_control: Callable[[str], bool],
    look: Callable[[], None],
) -> tuple[list[SourceRow], list[dict[str, Any]]]:
    """Rows that can be trained on by themselves, and those that cannot with the reason."""
    fitting, skipped = [], []
    for row in source:
        look()
        if any(turn["role"] == "tool" or "tool_calls" in turn for turn in row.content["messages"]):
            detail = "calls tools; the service's prompt has none, so it would be trained otherwise than served"
            skipped.append(
                {"row": row.id, "dataset": row.dataset_id, "line": row.line, "code": "tool_calls", "detail": detail}
            )
            continue
        tokens = _tokens(render_judged(row.content, [], random.Random(0)).row, count_tokens)
        problem = None
        if holds_control(answer_of(row.content)) or holds_control(row.content.get("rejected", "")):
            problem = ("special_token_in_row", "the answer holds a token of the base's chat template")
        elif tokens > recipe.batch.max_tokens:
            problem = ("too_long", f"{tokens} tokens; the recipe takes {recipe.batch.max_tokens}")
        if problem is None:
            fitting.append(row)
        else:
            skipped.append(
                {"row": row.id, "dataset": row.dataset_id, "line": row.line, "code": problem[0], "detail": problem[1]}
            )
    return fitting, skipped


def _without_leaks(
    source: Sequence[SourceRow], probes: Sequence[EvaluationItem], look: Callable[[], None]
) -> tuple[list[SourceRow], list[dict[str, Any]]]:
    """Rows that nearly repeat a shipped question with its passages would be judged on what they were trained on."""
    asked = [item.prompt[-1].content for item in probes]
    shown = [render_row(row.content, [], random.Random(0)).row.prompt[-1].content for row in source]
    leaks = {
        two - len(asked): one for one, two, _ in near_pairs([*asked, *shown], look=look) if one < len(asked) <= two
    }
    kept = [row for at, row in enumerate(source) if at not in leaks]
    left_out = [
        {
            "row": source[at].id,
            "dataset": source[at].dataset_id,
            "line": source[at].line,
            "code": "evaluation_leak",
            "detail": f"nearly the evaluation's own item {probes[one].id}",
        }
        for at, one in sorted(leaks.items())
    ]
    return kept, left_out


def _tokens(row: TrainRow, count_tokens: Callable[[str], int]) -> int:
    longest = max(row.completion, row.rejected or "", key=len)
    texts = [*(turn.content for turn in row.prompt), longest]
    return sum(count_tokens(text) + _TURN_TOKENS for text in texts)
