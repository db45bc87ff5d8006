from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.retrieval import rank_of, recall
from benchmarks.squad import load_paragraphs, split_languages


def article(title: str, *contexts: str) -> dict[str, object]:
    return {
        "title": title,
        "paragraphs": [
            {
                "context": context,
                "qas": [
                    {"id": f"{title}-{n}", "question": "?", "answers": [{"text": "a", "answer_start": 0}] * 2},
                    {"id": f"{title}-{n}x", "question": "?", "answers": [], "is_impossible": True},
                ],
            }
            for n, context in enumerate(contexts)
        ],
    }


def test_a_paragraph_counts_once_at_its_best_passage() -> None:
    assert rank_of("b", ["a", "a", "b", "c", "b"]) == 2
    assert rank_of("z", ["a"]) == sys.maxsize
    assert recall([1, 2, 4, sys.maxsize]) == {
        "recall_at_1": 0.25, "recall_at_3": 0.5, "recall_at_5": 0.75, "recall_at_10": 0.75,
    }  # fmt: skip


def test_squad_files_are_read_from_a_file_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"data": [article("Leave", "15 days.", "Ask.")]}), encoding="utf-8")
    (tmp_path / "b.json").write_text(
        json.dumps({"data": [article("休暇", "15日です。", "ABC")]}, ensure_ascii=False), encoding="utf-8"
    )
    (tmp_path / "other.json").write_text("[1]", encoding="utf-8")
    paragraphs = load_paragraphs(tmp_path)
    assert [len(p.questions) for p in paragraphs] == [2, 2, 2, 2]
    assert paragraphs[0].questions[0].answers == ("a",) and paragraphs[0].questions[1].answers == ()
    languages = split_languages(paragraphs[:3])
    assert {name: len(found) for name, found in languages.items()} == {"english": 2, "japanese": 1}
    assert load_paragraphs(tmp_path / "a.json") == paragraphs[:2]
    with pytest.raises(ValueError, match="not SQuAD-shaped"):
        load_paragraphs(tmp_path / "other.json")
