"""Reads SQuAD-shaped files (SQuAD 1.1 and 2.0, JaQuAD, JSQuAD): articles, paragraphs, questions with answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.language import language_of
from core.types import Language


@dataclass(frozen=True, slots=True)
class SquadQuestion:
    """A question on one paragraph; no answers means that the paragraph holds none."""

    id: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SquadParagraph:
    """A paragraph with the title of its article."""

    article: str
    text: str
    questions: tuple[SquadQuestion, ...]

    @property
    def language(self) -> Language:
        """Language of the text; anything that is not Japanese counts as English."""
        return Language.JAPANESE if language_of(self.text) is Language.JAPANESE else Language.ENGLISH


def load_paragraphs(path: Path) -> list[SquadParagraph]:
    """Paragraphs of a file, or of all SQuAD-shaped .json files of a folder, in file and reading order.

    Raises:
        ValueError: `path` is a file of another shape, or a folder without any that fits.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    paragraphs: list[SquadParagraph] = []
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("data"), list):
            paragraphs.extend(_paragraphs(content["data"]))
        elif not path.is_dir():
            raise ValueError(f"{file} is not SQuAD-shaped: no list under 'data'")
    if not paragraphs:
        raise ValueError(f"no SQuAD-shaped file in {path}")
    return paragraphs


def split_languages(paragraphs: list[SquadParagraph]) -> dict[str, list[SquadParagraph]]:
    """Paragraphs by 'english' and 'japanese', each by the article's majority, so that no article is torn apart."""
    japanese: dict[str, int] = {}
    for paragraph in paragraphs:
        vote = 1 if paragraph.language is Language.JAPANESE else -1
        japanese[paragraph.article] = japanese.get(paragraph.article, 0) + vote
    result: dict[str, list[SquadParagraph]] = {}
    for paragraph in paragraphs:
        name = "japanese" if japanese[paragraph.article] > 0 else "english"
        result.setdefault(name, []).append(paragraph)
    return result


def _paragraphs(articles: list[dict[str, Any]]) -> Iterator[SquadParagraph]:
    for position, article in enumerate(articles):
        title = str(article.get("title") or f"article {position}")
        for paragraph in article["paragraphs"]:
            questions = tuple(
                SquadQuestion(str(qa.get("id", "")), qa["question"], _answers(qa)) for qa in paragraph["qas"]
            )
            yield SquadParagraph(title, paragraph["context"], questions)


def _answers(qa: dict[str, Any]) -> tuple[str, ...]:
    if qa.get("is_impossible"):
        return ()
    return tuple(dict.fromkeys(answer["text"] for answer in qa.get("answers", [])))
