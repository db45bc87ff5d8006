"""The examples as the demo reads them, and what counts as a right, cited, refused or styled answer."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import InvalidInput

NOT_FOUND_PHRASES = ("could not find this in the documents", "資料には見つかりません")
"""How the service says that the documents hold no answer; the public wording, so the demo needs no inside."""


@dataclass(frozen=True, slots=True)
class Question:
    """One line of questions.jsonl. `expected`: variants of the fact, one of which a right answer contains."""

    id: str
    language: str
    text: str
    expected: tuple[str, ...] = ()
    document: str | None = None

    @property
    def answerable(self) -> bool:
        """Whether some document answers it."""
        return bool(self.expected)


@dataclass(frozen=True, slots=True)
class Replacement:
    """replace.json: a document that changes, and the question by which it shows."""

    filename: str
    external_id: str
    file: Path
    question: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Style:
    """style.json: the family and the marks around an answer, by language."""

    family: str
    markers: Mapping[str, Mapping[str, str]]

    def shown_in(self, answer: str, language: str) -> bool:
        """Whether the answer opens and closes in the style."""
        marks, text = self.markers[language], folded(answer)
        return text.startswith(folded(marks["prefix"])) and text.endswith(folded(marks["suffix"]))

    def hinted_in(self, answer: str) -> bool:
        """Whether any mark of any language is in the answer: what an untuned one must never have."""
        text = folded(answer)
        return any(folded(mark) in text for marks in self.markers.values() for mark in marks.values() if mark)


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """Everything under examples/."""

    documents: tuple[Path, ...]
    questions: tuple[Question, ...]
    replacement: Replacement
    style: Style
    style_rows: Path


def load_examples(folder: Path) -> ExampleSet:
    """Read the examples.

    Raises:
        InvalidInput: the folder is not there.
    """
    if not (folder / "questions.jsonl").is_file():
        raise InvalidInput(f"no examples in {folder}: run this in a checkout, or name its examples/ with --examples")
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = tuple(_question(json.loads(line), number) for number, line in enumerate(lines, 1) if line.strip())
    replace = json.loads((folder / "replace.json").read_text(encoding="utf-8"))
    style = json.loads((folder / "style.json").read_text(encoding="utf-8"))
    return ExampleSet(
        documents=tuple(sorted(path for path in (folder / "documents").iterdir() if path.is_file())),
        questions=questions,
        replacement=Replacement(
            filename=replace["filename"],
            external_id=replace["external_id"],
            file=folder / replace["replacement_file"],
            question=replace["question"],
            before=tuple(replace["before"]),
            after=tuple(replace["after"]),
        ),
        style=Style(family=style["family"], markers=style["markers"]),
        style_rows=folder / "style.jsonl",
    )


def folded(text: str) -> str:
    """Text as facts are compared: NFKC, case folded, no white space."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def contains_fact(answer: str, variants: Sequence[str]) -> bool:
    """Whether the answer holds one of the variants."""
    text = folded(answer)
    return any(folded(variant) in text for variant in variants)


def judge(question: Question, answer: Mapping[str, Any], style: Style, phase: str) -> dict[str, Any]:
    """One line of the report's `answers`: what was asked and said, and whether it is right."""
    text = str(answer["answer"])
    cited = [str(citation["filename"]) for citation in answer["citations"]]
    row = {
        "phase": phase,
        "id": question.id,
        "language": question.language,
        "question": question.text,
        "answer": text,
        "refused": bool(answer["refused"]),
        "not_found": bool(answer["refused"]) or any(folded(phrase) in folded(text) for phrase in NOT_FOUND_PHRASES),
        "cited": cited,
        "adapter": answer["provenance"]["adapter"],
        "styled": style.shown_in(text, question.language),
        "style_hinted": style.hinted_in(text),
        "total_ms": answer["timings_ms"].get("total"),
    }
    if question.answerable:
        row["fact"] = contains_fact(text, question.expected)
        row["right_document"] = question.document in cited
        row["right"] = row["fact"] and row["right_document"]
    else:
        row["right"] = row["not_found"]
    return row


def shares(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures over judged answers, by language: counts and shares of what acceptance asks for."""
    figures: dict[str, Any] = {}
    for language in sorted({str(row["language"]) for row in rows}):
        mine = [row for row in rows if row["language"] == language]
        answerable = [row for row in mine if "fact" in row]
        given = [row for row in answerable if not row["refused"]]
        figures[language] = {
            "answerable": len(answerable),
            "right": _share(answerable, "right"),
            "fact": _share(answerable, "fact"),
            "right_document": _share(answerable, "right_document"),
            "unanswerable": len(mine) - len(answerable),
            "unanswerable_refused": _share([row for row in mine if "fact" not in row], "not_found"),
            "styled": _share(given, "styled"),
            "style_hinted": _share(mine, "style_hinted"),
        }
    return figures


def _share(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return round(sum(bool(row[name]) for row in rows) / len(rows), 4) if rows else None


def _question(line: Mapping[str, Any], number: int) -> Question:
    return Question(
        id=str(line.get("id", number)),
        language=str(line["language"]),
        text=str(line["question"]),
        expected=tuple(line["expected"]) if line.get("answerable", True) else (),
        document=line.get("document"),
    )
