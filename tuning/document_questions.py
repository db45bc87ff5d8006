"""Questions that the tenant's own documents answer, made without a model: a number is left out of a sentence.

Read with the access of somebody in no group, as negatives are. The same question before another document's text must be
refused. These items say whether reading survives on the texts that the service answers from; nothing learns from them.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from core.access import Principal, access_filter, documents_visible
from core.database import Database
from core.language import passage_language
from core.repositories.documents import serving_chunk_set
from core.tables.documents import ChunkRow, Document
from core.types import Language, Scope
from generation.prompt import PromptPassage, render_grounded
from tuning.items import EvaluationItem
from tuning.render import sentences
from tuning.spec import TrainMessage

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_SENTENCE_CHARS = (24, 200)
_SENTENCE_CHARS_JA = (14, 100)
_WINDOW = 1
"""Sentences shown before and after the one that is asked for."""
_MOST_CHUNKS = 4_000
_CHUNKS_A_QUESTION = 8
"""Many chunks hold no sentence with one number."""
BLANK = "____"


@dataclass(frozen=True, slots=True)
class DocumentPassage:
    """A chunk of a document that everybody in the tenant may read."""

    id: str
    document_id: str
    generation: int
    text: str


def public_passages(
    db: Database, tenant_id: str, questions: int, look: Callable[[], None] = lambda: None
) -> list[DocumentPassage]:
    """Served chunks for so many questions, in an order by hash, which mixes documents and stays while they do."""
    anybody = Principal(tenant_id, "tuning", frozenset({Scope.QUERY}), frozenset())
    with db.read() as session:
        rows = session.execute(
            select(ChunkRow.id, ChunkRow.document_id, ChunkRow.generation)
            .join(Document, Document.id == ChunkRow.document_id)
            .where(documents_visible(access_filter(anybody)), ChunkRow.generation == Document.active_generation)
            .where(ChunkRow.chunk_set == serving_chunk_set(session))
            .order_by(ChunkRow.id)
            .limit(_MOST_CHUNKS)
        ).all()
        look()
        chosen = sorted(rows, key=lambda row: hashlib.sha256(row[0].encode()).hexdigest())[
            : _CHUNKS_A_QUESTION * questions
        ]
        named = select(ChunkRow.id, ChunkRow.text).where(ChunkRow.id.in_([row[0] for row in chosen]))
        texts = {row[0]: str(row[1]) for row in session.execute(named)}
    return [DocumentPassage(*row, texts[row[0]]) for row in chosen if row[0] in texts]


def document_items(
    passages: Sequence[DocumentPassage], count: int, *, trained: Collection[str] = ()
) -> tuple[list[EvaluationItem], set[tuple[str, int]]]:
    """Up to `count` questions that passages answer, as many whose passages do not, and the documents shown.

    trained: texts of training rows; a sentence that stands in one of them is not asked for.
    """
    learnt = "\n".join(_folded(text) for text in trained)
    made: list[tuple[DocumentPassage, str, str, str]] = []
    asked: set[str] = set()
    for passage in passages:
        found = next((one for one in _blanked(passage.text) if _folded(one[0]) not in learnt), None)
        if found is not None and _folded(found[0]) not in asked:
            asked.add(_folded(found[0]))
            made.append((passage, *found))
        if len(made) == count:
            break
    items: list[EvaluationItem] = []
    documents: set[tuple[str, int]] = set()
    for at, (passage, sentence, question, number) in enumerate(made):
        beside = _beside(made, at, number)
        if beside is None:
            continue
        shown = _window(passage.text, sentence)
        other = _window(beside[0].text, beside[1])
        texts = [shown, other] if at % 2 == 0 else [other, shown]
        items.append(
            EvaluationItem(
                id=f"document:{passage.id}", source="document", prompt=_prompt(question, texts),
                expected=((number,),), gold=(1 if at % 2 == 0 else 2,),
            )
        )  # fmt: skip
        items.append(
            EvaluationItem(
                id=f"document_without:{passage.id}", source="document", prompt=_prompt(question, [other]),
                unanswerable=True,
            )
        )  # fmt: skip
        documents |= {(one.document_id, one.generation) for one in (passage, beside[0])}
    return items, documents


def _blanked(text: str) -> Iterator[tuple[str, str, str]]:
    """(sentence, question, number) of sentences whose only number stands nowhere else in the text."""
    numbers = _NUMBER.findall(unicodedata.normalize("NFKC", text))
    for sentence in sentences(text):
        japanese = passage_language(sentence) is Language.JAPANESE
        least, most = _SENTENCE_CHARS_JA if japanese else _SENTENCE_CHARS
        folded = unicodedata.normalize("NFKC", sentence)
        inside = _NUMBER.findall(folded)
        if not least <= len(sentence) <= most or "|" in sentence or len(inside) != 1 or numbers.count(inside[0]) > 1:
            continue
        blank = folded.replace(inside[0], BLANK, 1)
        question = (
            f"次の文の{BLANK}に入る数字は何ですか。「{blank}」"
            if japanese
            else f'Which number belongs in the blank of this sentence? "{blank}"'
        )
        yield sentence, question, inside[0]


def _beside(
    made: Sequence[tuple[DocumentPassage, str, str, str]], at: int, number: str
) -> tuple[DocumentPassage, str] | None:
    """A sentence's neighbourhood in another document, in the same language where there is one, without the number."""
    passage = made[at][0]
    language = passage_language(passage.text)
    later = [made[(at + step) % len(made)] for step in range(1, len(made))]
    fitting = [
        (one, sentence)
        for one, sentence, _, _ in later
        if one.document_id != passage.document_id and number not in _folded(_window(one.text, sentence))
    ]
    same = [pair for pair in fitting if passage_language(pair[0].text) is language]
    return next(iter(same or fitting), None)


def _window(text: str, sentence: str) -> str:
    """A sentence with its neighbours."""
    lines = sentences(text)
    at = lines.index(sentence)
    space = "" if passage_language(sentence) is Language.JAPANESE else " "
    return space.join(lines[max(0, at - _WINDOW) : at + _WINDOW + 1])


def _prompt(question: str, texts: Sequence[str]) -> tuple[TrainMessage, ...]:
    return tuple(
        TrainMessage.model_validate({"role": turn.role, "content": turn.content})
        for turn in render_grounded(question, [PromptPassage(text) for text in texts])
    )


def _folded(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())
