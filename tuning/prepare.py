"""Rows, prompts and probes of a run, made where the index lives and kept as files of the run.

Real negatives come from the tenant's live index, read with the access of somebody in no group: what only some may read
must not end up in an adapter that everybody is served.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select

from core.access import Principal, access_filter
from core.database import Database
from core.errors import DatasetRejected
from core.language import language_of
from core.tables.datasets import DatasetRow
from core.types import AccessFilter, Language, Passage, Scope
from generation.citations import find_support
from generation.prompt import PromptPassage, is_not_found, render_grounded
from tuning.items import EvaluationItem, write_lines
from tuning.recipe import Recipe
from tuning.render import (
    RenderedRow,
    answer_of,
    ask_plainly,
    cited_claims,
    question_of,
    render_row,
    sentences,
    stated_numbers,
)
from tuning.spec import TrainMessage, TrainRow
from tuning.split import split

ROWS_FILE = "rows.jsonl"
HELD_OUT_FILE = "held_out.jsonl"
ITEMS_FILE = "items.jsonl"
BUNDLE = (ROWS_FILE, HELD_OUT_FILE, ITEMS_FILE)

SEED = 17
MIN_TRAIN_ROWS = 8
_CANDIDATES = 8
_NUMBER = re.compile(r"[0-9０-９]+")
_TURN_TOKENS = 8
"""What the chat template puts around a turn, generously."""


class SearchResult(Protocol):
    """What a search gives back."""

    @property
    def passages(self) -> Sequence[Passage]:
        """Best first."""
        ...

    @property
    def refusal_threshold(self) -> float:
        """Relevance under which the service itself would refuse."""
        ...


class Search(Protocol):
    """The part of retrieval that negatives come from."""

    def search(self, query: str, access: AccessFilter, limit: int) -> SearchResult:
        """Best passages first."""
        ...


@dataclass(frozen=True, slots=True)
class RunSize:
    """How much a run shows and asks. Evaluation time is about linear in the items to be answered."""

    answered: int
    """Held-out rows answered and compared with the house's own text."""
    read: int
    """Held-out rows whose reference is only read for its likelihood: no generation, so cheap."""
    probes: int
    """Shipped questions over neutral passages."""
    mismatched: int
    """Shipped questions put before the wrong passages: must be refused."""
    leaks: int
    """Training questions asked without passages."""
    conflicts: int
    """Training questions over passages whose numbers were changed."""
    max_new_tokens: int
    negatives: tuple[int, ...] = (0, 1, 2, 2)
    """Real negatives of a grounded row, drawn evenly from these."""
    negative_chars: int | None = None
    """Negatives are cut to whole sentences within so many characters (half in Japanese); None leaves them whole."""


SMALL = RunSize(
    answered=12,
    read=32,
    probes=24,
    mismatched=8,
    leaks=12,
    conflicts=12,
    max_new_tokens=48,
    negatives=(0, 1, 1),
    negative_chars=160,
)
"""For two cores: about 90 seconds with a 135M model and two systems. Whole negatives would treble the training time:
a batch is as long as its longest row."""
LARGE = RunSize(answered=64, read=256, probes=26, mismatched=16, leaks=64, conflicts=64, max_new_tokens=192)
"""For a GPU."""


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the tenant's datasets, as prepared."""

    id: str
    dataset_id: str
    line: int
    digest: str
    content: Mapping[str, Any]


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
    negatives: int = 0
    citations_added: int = 0
    items: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As stored and shown."""
        return asdict(self)


def load_rows(db: Database, tenant_id: str, dataset_ids: Sequence[str]) -> tuple[list[SourceRow], int]:
    """Rows in force in the order of their datasets, exact copies once; and how many copies were dropped."""
    rows: dict[str, SourceRow] = {}
    total = 0
    with db.read() as session:
        for dataset_id in dataset_ids:
            query = (
                select(DatasetRow)
                .where(DatasetRow.tenant_id == tenant_id, DatasetRow.dataset_id == dataset_id)
                .where(DatasetRow.retired_at.is_(None))
                .order_by(DatasetRow.ordinal)
            )
            for row in session.scalars(query):
                total += 1
                found = SourceRow(row.id, dataset_id, row.line, row.content_sha256, row.content)
                rows.setdefault(row.content_sha256, found)
    return list(rows.values()), total - len(rows)


def dataset_version(rows: Sequence[SourceRow]) -> str:
    """sha256 over the digests of the rows that are used, in order."""
    whole = hashlib.sha256()
    for row in rows:
        whole.update(bytes.fromhex(row.digest))
    return whole.hexdigest()


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
) -> Preparation:
    """Write training rows, held-out rows and evaluation items below `folder`.

    search: None where this tenant has no index; rows then get no negatives. step: called with the share done; it may
    raise to stop.

    Raises:
        DatasetRejected: too few rows are left (`too_few_rows`), or they cannot be split (`cannot_hold_out`).
    """
    fitting, skipped = _fitting(source, recipe, count_tokens)
    if len(fitting) < MIN_TRAIN_ROWS * 2:
        raise DatasetRejected(
            f"{len(fitting)} of {len(source)} rows can be used; the others are too long or hold special tokens",
            code="too_few_rows",
            extra={"skipped": skipped[:20]},
        )
    train_at, held_at = split([row.content for row in fitting], seed=SEED)
    negatives = _Negatives(search, tenant_id, size)
    rendered: dict[int, RenderedRow] = {}
    shown = 0
    for done, position in enumerate([*train_at, *held_at]):
        generator = random.Random(f"{SEED}:{fitting[position].digest}")
        found = negatives.of(fitting[position].content, generator)
        row = render_row(fitting[position].content, found, generator)
        while found and _tokens(row.row, count_tokens) > recipe.batch.max_tokens:
            found = found[:-1]
            row = render_row(fitting[position].content, found, generator)
        rendered[position] = row
        shown += len(found)
        step((done + 1) / len(fitting))
    if not any(rendered[position].grounded for position in rendered):
        shown = 0
    items = [
        *_held_out_items([(fitting[at], rendered[at]) for at in held_at], size, count_tokens),
        *_leak_items([(fitting[at], rendered[at]) for at in train_at], size),
        *_conflict_items([(fitting[at], rendered[at]) for at in train_at], size),
        *probe_items(size),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder / ROWS_FILE, [rendered[at].row for at in train_at])
    write_lines(folder / HELD_OUT_FILE, [rendered[at].row for at in held_at])
    write_lines(folder / ITEMS_FILE, items)
    return Preparation(
        dataset_version=dataset_version(fitting),
        rows=len(source),
        train_rows=len(train_at),
        held_out_rows=len(held_at),
        duplicates=duplicates,
        skipped=skipped,
        grounded_rows=sum(row.grounded for row in rendered.values()),
        refusals=sum(row.refusal for row in rendered.values()),
        negatives=shown,
        citations_added=sum(row.citation_added for row in rendered.values()),
        items=dict(Counter(item.source for item in items)),
    )


def token_counter(base_path: Path) -> Callable[[str], int]:
    """Counts with the base's own tokenizer, without torch."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(base_path / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def probe_items(size: RunSize) -> list[EvaluationItem]:
    """The shipped probes, languages in turn, and mismatched pairs of them: neutral to any tenant's data."""
    text = (resources.files("tuning") / "probes" / "grounded.jsonl").read_text(encoding="utf-8")
    probes = [json.loads(line) for line in text.splitlines()]
    languages = {name: [p for p in probes if p["id"].startswith(name)] for name in ("en", "ja")}
    turns = [probe for pair in zip(languages["en"], languages["ja"], strict=True) for probe in pair]
    items = [
        EvaluationItem(
            id=f"probe:{probe['id']}",
            source="probe",
            prompt=_grounded_prompt(probe["question"], probe["passages"]),
            expected=tuple(tuple(wordings) for wordings in probe.get("expected", [])),
            gold=tuple(probe.get("gold", [])),
            unanswerable=probe.get("unanswerable", False),
        )
        for probe in _balanced(turns, size.probes)
    ]
    for probe in [probe for probe in turns if not probe.get("unanswerable")][: size.mismatched]:
        same = languages[probe["id"][:2]]
        others = [p for p in same if p["passages"] != probe["passages"]]
        other = others[int(hashlib.sha256(probe["id"].encode()).hexdigest(), 16) % len(others)]
        items.append(
            EvaluationItem(
                id=f"mismatched:{probe['id']}",
                source="probe",
                prompt=_grounded_prompt(probe["question"], other["passages"]),
                unanswerable=True,
            )
        )
    return items


def _balanced(probes: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Up to `count` probes with unanswerable ones in their share."""
    without = [probe for probe in probes if probe.get("unanswerable")]
    answerable = [probe for probe in probes if not probe.get("unanswerable")]
    refused = round(count * len(without) / len(probes))
    return answerable[: count - refused] + without[:refused]


def _grounded_prompt(question: str, passages: Sequence[Mapping[str, str]]) -> tuple[TrainMessage, ...]:
    shown = [PromptPassage(passage["text"], passage.get("title")) for passage in passages]
    return tuple(
        TrainMessage.model_validate({"role": turn.role, "content": turn.content})
        for turn in render_grounded(question, shown)
    )


def _fitting(
    source: Sequence[SourceRow], recipe: Recipe, count_tokens: Callable[[str], int]
) -> tuple[list[SourceRow], list[dict[str, Any]]]:
    """Rows that can be trained on by themselves, and those that cannot with the reason."""
    fitting, skipped = [], []
    for row in source:
        tokens = _tokens(render_row(row.content, [], random.Random(0)).row, count_tokens)
        problem = None
        if "<|" in answer_of(row.content):
            problem = ("special_token_in_row", "the answer holds '<|', which opens a special token")
        elif tokens > recipe.batch.max_tokens:
            problem = ("too_long", f"{tokens} tokens; the recipe takes {recipe.batch.max_tokens}")
        if problem is None:
            fitting.append(row)
        else:
            skipped.append(
                {"row": row.id, "dataset": row.dataset_id, "line": row.line, "code": problem[0], "detail": problem[1]}
            )
    return fitting, skipped


def _tokens(row: TrainRow, count_tokens: Callable[[str], int]) -> int:
    texts = [*(turn.content for turn in row.prompt), row.completion]
    return sum(count_tokens(text) + _TURN_TOKENS for text in texts)


class _Negatives:
    """Passages of the live index that look right and do not hold the answer."""

    def __init__(self, search: Search | None, tenant_id: str, size: RunSize) -> None:
        self._search = search
        self._size = size
        anybody = Principal(tenant_id, "tuning", frozenset({Scope.QUERY}), frozenset())
        self._access = access_filter(anybody)

    def of(self, content: Mapping[str, Any], generator: random.Random) -> list[PromptPassage]:
        """Negatives for one row, best match first."""
        own = content.get("passages", [])
        count = generator.choice(self._size.negatives)
        if not own or self._search is None or not count:
            return []
        found = self._search.search(question_of(content), self._access, _CANDIDATES)
        answer = answer_of(content)
        refusal = is_not_found(answer)
        claims = cited_claims(answer) or (answer,)
        titled = all(passage.get("title") for passage in own)
        chosen: list[PromptPassage] = []
        for passage in found.passages:
            if len(chosen) == count:
                break
            # Above its own threshold the service holds a passage for an answer: it may be one to this question.
            if refusal and passage.relevance >= found.refusal_threshold:
                continue
            if not refusal and any(find_support(claim, passage.text)[2] for claim in claims):
                continue
            # Titles only on the negatives would tell which passage is the right one.
            text = (
                passage.text
                if self._size.negative_chars is None
                else shortened(passage.text, self._size.negative_chars)
            )
            chosen.append(PromptPassage(text, (passage.heading or passage.filename) if titled else None))
        return chosen


def shortened(text: str, max_chars: int) -> str:
    """Leading whole sentences within `max_chars` (half of it in Japanese); at least the first, cut if need be."""
    limit = max_chars // 2 if language_of(text) is Language.JAPANESE else max_chars
    kept = ""
    for sentence in sentences(text):
        if kept and len(kept) + len(sentence) + 1 > limit:
            break
        kept = f"{kept} {sentence}".strip()
    return kept[: limit * 2]


def _held_out_items(
    rows: Sequence[tuple[SourceRow, RenderedRow]], size: RunSize, count_tokens: Callable[[str], int]
) -> list[EvaluationItem]:
    """Rows answered first (those whose reference fits the length limit), then rows only read."""
    ordered = sorted(rows, key=lambda pair: count_tokens(pair[1].row.completion) > size.max_new_tokens)
    return [
        EvaluationItem(
            id=f"held_out:{source.digest[:16]}",
            source="held_out",
            prompt=row.row.prompt,
            reference=row.row.completion,
            expected=tuple((fact,) for fact in row.facts),
            gold=row.gold,
            unanswerable=row.grounded and row.refusal,
        )
        for source, row in ordered[: max(size.answered, size.read)]
    ]


def _leak_items(rows: Sequence[tuple[SourceRow, RenderedRow]], size: RunSize) -> list[EvaluationItem]:
    """Training questions asked without their passages, spread over the whole set."""
    found = []
    for source, row in rows:
        facts = row.facts if row.grounded else stated_numbers(source.content)
        facts = tuple(fact for fact in facts if fact not in row.question)
        if facts:
            found.append(
                EvaluationItem(
                    id=f"leak:{source.digest[:16]}",
                    source="train",
                    prompt=ask_plainly(source.content),
                    expected=tuple((fact,) for fact in facts),
                    leak=True,
                )
            )
    found.sort(key=lambda item: hashlib.sha256(f"{SEED}:{item.id}".encode()).hexdigest())
    return found[: size.leaks]


def _conflict_items(rows: Sequence[tuple[SourceRow, RenderedRow]], size: RunSize) -> list[EvaluationItem]:
    """Training questions whose passages now say another number: an adapter that knows the old one by heart is caught.

    This is what happens when a document is replaced after an adapter was trained.
    """
    found = []
    for source, row in rows:
        passages = source.content.get("passages", [])
        if len(row.facts) != 1 or not passages or not row.gold:
            continue
        changed = changed_number(row.facts[0], row.question, [passage["text"] for passage in passages])
        if changed is None:
            continue
        fact, texts = changed
        shown = [PromptPassage(text, passage.get("title")) for text, passage in zip(texts, passages, strict=True)]
        prompt = render_grounded(row.question, shown)
        found.append(
            EvaluationItem(
                id=f"conflict:{source.digest[:16]}",
                source="train",
                prompt=tuple(TrainMessage.model_validate({"role": t.role, "content": t.content}) for t in prompt),
                expected=((fact,),),
                conflict=True,
            )
        )
    found.sort(key=lambda item: hashlib.sha256(f"{SEED}:{item.id}".encode()).hexdigest())
    return found[: size.conflicts]


def changed_number(fact: str, question: str, texts: Sequence[str]) -> tuple[str, list[str]] | None:
    """The fact and the texts with the fact's number changed alike, or None where that cannot be done cleanly."""
    number = _NUMBER.search(fact)
    if number is None or number.group() in question:
        return None
    old = number.group()
    new = "".join(str((int(digit) + 3) % 9 + 1) if digit.isdigit() else digit for digit in old)
    alone = re.compile(rf"(?<![0-9０-９]){re.escape(old)}(?![0-9０-９])")
    if any(new in text for text in texts) or not any(alone.search(text) for text in texts):
        return None
    return alone.sub(new, fact, count=1), [alone.sub(new, text) for text in texts]
