"""The office benchmark's bounds: which questions count for each, and what holds; and where it looks for its data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.office import find_data
from benchmarks.office_bounds import Answered, Held, measure
from generation.evaluation.questions import Question


def answered(
    status: str, *, retrieved: bool | None = True, verified: bool = False, cited: bool | None = None, **given: Any
) -> Answered:
    labels = {
        "question": "?",
        "expected": "1",
        "language": "ja",
        "document_language": "ja",
        "kind": "table_row",
        **given,
    }
    outcome = {"status": status, "verified": verified, "cited": cited}
    return Answered(Question.model_validate(labels), outcome, retrieved)


def held(answers: list[Answered]) -> dict[tuple[str, str], Held]:
    return {(one.what, one.over): one for one in measure(answers)}


def test_questions_are_counted_where_they_belong() -> None:
    told = held(
        [
            answered("right", verified=True, cited=True),
            answered("wrong", verified=True, cited=False),
            answered("refused", retrieved=False),
            answered("right", language="en", document_language="en", kind="faq", cited=True),
            answered("wrong", language="en", kind="faq"),  # the other language counts for no group of kinds
            answered("right", unanswerable=True, expected=None, retrieved=None),
            answered("right", document_language="mixed", kind="mail"),  # in neither
        ]
    )
    shares = {key: (one.of and round((one.share or 0) * one.of), one.of) for key, one in told.items()}
    assert shares == {
        ("right", "ja in ja"): (1, 3),
        ("right", "en in en"): (1, 1),
        ("right", "rows and conditions"): (1, 3),
        ("right", "matrices"): (0, 0),
        ("right", "forms, FAQ, error codes"): (1, 1),
        ("right", "prose"): (0, 0),
        ("right", "other language"): (0, 1),
        ("retrieved", "one language"): (3, 4),
        ("cited", "one language"): (2, 3),
        ("refused rightly", "unanswerable"): (1, 1),
        ("refused wrongly", "one language"): (1, 4),
        ("verified wrong", "all"): (1, 7),
        ("verified", "right answers"): (1, 3),
    }


def test_what_holds() -> None:
    told = held([answered("right") for _ in range(8)] + [answered("wrong", verified=True), answered("refused")])
    assert told["right", "rows and conditions"].holds and told["right", "ja in ja"].holds
    assert told["refused wrongly", "one language"].holds  # at most
    assert not told["verified wrong", "all"].holds
    assert not told["right", "en in en"].holds  # nothing was asked


def test_the_folder_is_looked_for_and_missed_aloud(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TSUMUGI_DATA", raising=False)
    assert find_data(None) is None
    monkeypatch.setenv("TSUMUGI_DATA", str(tmp_path))
    assert find_data(None) is None
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith("SKIPPED") for line in said)
    (tmp_path / "office" / "documents").mkdir(parents=True)
    (tmp_path / "office" / "questions.jsonl").touch()
    assert find_data(None) == find_data(tmp_path / "office") == tmp_path / "office"
