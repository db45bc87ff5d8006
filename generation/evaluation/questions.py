"""Questions of an evaluation, checked once, wherever they come from: a request, a stored set, a file of JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from core.errors import FieldError, InvalidInput, TooLarge
from core.language import language_of
from generation.evaluation.matching import Folded

MAX_QUESTIONS = 10_000
MAX_NAMED_ERRORS = 50
_DIGEST_FIELDS = ("question", "expected", "not_expected", "documents", "unanswerable", "collection")


def _groups(value: Any) -> Any:
    """A plain answer, or alternatives of one, as groups of alternatives."""
    if isinstance(value, str):
        return [[value]]
    if isinstance(value, list | tuple) and value and all(isinstance(one, str) for one in value):
        return [list(value)]
    return value


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1, max_length=500)]


class Question(BaseModel):
    """A question and what a right answer holds. `answer_all`, `answer`, `answer_not`, `document` are taken as well."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, frozen=True)

    question: str = Field(min_length=1, max_length=8_000)
    id: str | None = Field(None, min_length=1, max_length=100, description="Default: q and its number in the set.")
    expected: Annotated[
        list[Annotated[list[Text], Field(min_length=1, max_length=30)]], BeforeValidator(_groups), Field(max_length=30)
    ] = Field(
        default_factory=list,
        validation_alias=AliasChoices("expected", "answer_all", "answer"),
        description="One alternative of every inner list must stand in the answer. A string, or a list of strings, is "
        "one such list.",
    )
    not_expected: Annotated[list[Text], BeforeValidator(_several), Field(max_length=50)] = Field(
        default_factory=list,
        validation_alias=AliasChoices("not_expected", "answer_not"),
        description="Competing values (of the row beside it, of last year): an answer with one of them is wrong.",
    )
    documents: Annotated[list[Text], BeforeValidator(_several), Field(max_length=30)] = Field(
        default_factory=list,
        validation_alias=AliasChoices("documents", "document"),
        description="File names or ids of documents that hold the answer; citing one of them is enough.",
    )
    unanswerable: bool = Field(False, description="The documents do not hold it: the right answer is a refusal.")
    evidence: str = Field(
        "", max_length=4_000, description="Text that holds the answer; parts in their order, joined by ` … `."
    )
    kind: str = Field("", max_length=60, description="Questions are counted by it.")
    language: str = Field("", max_length=20, description="Of the question; default: read from it.")
    document_language: str = Field("", max_length=20, description="Of the document, where it may be another.")
    collection: str | None = Field(None, max_length=200, description="Ask over this collection only.")

    @model_validator(mode="before")
    @classmethod
    def _drop_nothing(cls, value: Any) -> Any:
        """null, and an empty list of expected words, count as left out; `answerable` is the other word for it."""
        if not isinstance(value, dict):
            return value
        given = {name: item for name, item in value.items() if item is not None}
        if isinstance(answerable := given.pop("answerable", None), bool):
            given.setdefault("unanswerable", not answerable)
        return given

    @model_validator(mode="after")
    def _judgeable(self) -> Self:
        if not self.question.strip():
            raise ValueError("the question is empty")
        if self.unanswerable and self.expected:
            raise ValueError("a question that is unanswerable expects no words")
        if not (self.unanswerable or self.expected or self.documents):
            raise ValueError("give what is expected: words, documents, or that it is unanswerable")
        for word in (*(one for group in self.expected for one in group), *self.not_expected):
            if not Folded.of(word).chars:
                raise ValueError(f"{word!r} has nothing to compare")
        return self

    @property
    def digest(self) -> str:
        """Names the question with its labels: what two runs have in common."""
        labels = self.model_dump(include=set(_DIGEST_FIELDS))
        return hashlib.sha256(json.dumps(labels, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]

    def completed(self, number: int) -> Question:
        """With an id and a language."""
        language = self.language or language_of(self.question).value
        return self.model_copy(update={"id": self.id or f"q{number}", "language": language})


def parse_questions(given: Sequence[Any]) -> list[Question]:
    """Check questions as they come from JSON, and complete them.

    Raises:
        TooLarge: `too_many_questions`.
        InvalidInput: `no_questions`; `invalid_questions`: `errors` names them by number from 1.
    """
    if not given:
        raise InvalidInput("there is no question", code="no_questions")
    if len(given) > MAX_QUESTIONS:
        raise TooLarge(
            f"{len(given)} questions; at most {MAX_QUESTIONS} are taken",
            code="too_many_questions",
            extra={"limit": MAX_QUESTIONS, "actual": len(given)},
        )
    questions: list[Question] = []
    errors: list[FieldError] = []
    ids: dict[str | None, int] = {}
    for number, one in enumerate(given, start=1):
        try:
            question = (one if isinstance(one, Question) else Question.model_validate(one)).completed(number)
        except ValidationError as error:
            errors += [
                FieldError(".".join(map(str, ("questions", number, *item["loc"]))), item["msg"], item["type"])
                for item in error.errors()
            ]
            continue
        if question.id in ids:
            errors.append(
                FieldError(f"questions.{number}.id", f"{question.id!r} is that of question {ids[question.id]}")
            )
        ids.setdefault(question.id, number)
        questions.append(question)
    if errors:
        raise InvalidInput(
            f"questions that cannot be used: {errors[0].location}: {errors[0].detail}",
            code="invalid_questions",
            errors=errors[:MAX_NAMED_ERRORS],
        )
    return questions


def read_questions(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Questions of a file of JSON lines, as a request takes them, and names of fields that were left out as unknown.

    Raises:
        InvalidInput: `invalid_questions`: not JSON lines, not UTF-8, or a question that cannot be used.
    """
    known = {
        name
        for field, info in Question.model_fields.items()
        for name in (info.validation_alias.choices if isinstance(info.validation_alias, AliasChoices) else [field])
    } | {"answerable"}
    rows: list[dict[str, Any]] = []
    unknown: dict[str, None] = {}
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidInput(f"line {number} of {path} is not JSON: {error}", code="invalid_questions") from error
        if not isinstance(row, dict):
            raise InvalidInput(f"line {number} of {path} is not a JSON object", code="invalid_questions")
        unknown |= dict.fromkeys(name for name in row if name not in known)
        kept = {name: value for name, value in row.items() if name in known and value is not None}
        if kept.get("unanswerable") or kept.get("answerable") is False:
            for name in ("expected", "answer_all", "answer"):
                kept.pop(name, None)
        rows.append(kept)
    return [one.model_dump(exclude_defaults=True) for one in parse_questions(rows)], list(unknown)


def chosen(questions: Sequence[Question], *, kinds: Iterable[str] = (), limit: int | None = None) -> list[Question]:
    """Questions of some kinds, and `limit` of them spread evenly over the set.

    Raises:
        InvalidInput: `no_questions`: none is of these kinds.
    """
    wanted = set(kinds)
    found = [one for one in questions if not wanted or one.kind in wanted]
    if not found:
        raise InvalidInput(f"no question is of the kinds {', '.join(sorted(wanted))}", code="no_questions")
    if limit is None or limit >= len(found):
        return found
    return [found[number * len(found) // limit] for number in range(limit)]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8: {error}", code="invalid_questions") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line
