"""SQuAD-shaped files to passages and questions, split by article so that nothing held out is ever seen.

One passage is one paragraph. SQuAD v1 and v2 share articles and paragraphs: the split goes by title over all files, and
a question that stands in both is taken once.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class SourcePassage:
    """One paragraph with the title of its article."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class SourceQuestion:
    """A question about passage number `own`; `answers` is empty where that passage does not answer it."""

    text: str
    own: int
    answers: tuple[str, ...]

    @property
    def answer(self) -> str:
        """The answer most annotators gave; of equals the shortest."""
        counts = Counter(self.answers)
        return min(counts, key=lambda text: (-counts[text], len(text), text))


@dataclass(frozen=True, slots=True)
class Corpus:
    """Passages that are searched together, and the questions about them."""

    passages: list[SourcePassage]
    questions: list[SourceQuestion]


def is_held_out(title: str, share: float) -> bool:
    """Whether an article belongs to the development set: by a hash of its title, so new files do not move the split."""
    digest = hashlib.sha256(title.encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def load_corpus(files: Mapping[Path, float], *, held_out: bool) -> Corpus:
    """Read files into one corpus, keeping either the held-out articles or the others.

    files: path to the share of its articles that is held out; a title held out of one file is held out of all.
    """
    articles = [(article, share) for path, share in files.items() for article in _read_articles(path)]
    kept_out = {str(article["title"]) for article, share in articles if is_held_out(str(article["title"]), share)}
    numbers: dict[str, int] = {}
    passages: list[SourcePassage] = []
    questions: dict[tuple[str, int], SourceQuestion] = {}
    for article, _ in articles:
        title = str(article["title"])
        if (title in kept_out) is not held_out:
            continue
        for paragraph in article["paragraphs"]:
            text = str(paragraph["context"]).strip()
            own = numbers.setdefault(text, len(passages))
            if own == len(passages):
                passages.append(SourcePassage(title.replace("_", " "), text))
            for question in _read_questions(paragraph["qas"], own):
                questions.setdefault((question.text, own), question)
    return Corpus(passages, list(questions.values()))


def _read_articles(path: Path) -> list[dict[str, Any]]:
    articles: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["data"]
    return articles


def _read_questions(entries: Iterable[Mapping[str, Any]], own: int) -> Iterable[SourceQuestion]:
    for entry in entries:
        answers = () if entry.get("is_impossible") else tuple(str(a["text"]).strip() for a in entry["answers"])
        text = " ".join(str(entry["question"]).split())
        if text and (entry.get("is_impossible") or any(answers)):
            yield SourceQuestion(text, own, tuple(answer for answer in answers if answer))


def write_candidates(path: Path, corpora: Sequence[tuple[Corpus, list[list[int]]]]) -> None:
    """Save corpora with their rankings; all that `rows` needs, so rows can be made on another machine."""
    value = [
        {
            "passages": [[p.title, p.text] for p in corpus.passages],
            "questions": [asdict(question) for question in corpus.questions],
            "ranked": ranked,
        }
        for corpus, ranked in corpora
    ]
    path.write_bytes(lzma.compress(json.dumps(value, ensure_ascii=False).encode(), preset=6))


def read_candidates(path: Path) -> list[tuple[Corpus, list[list[int]]]]:
    """What `write_candidates` wrote."""
    found = []
    for value in json.loads(lzma.decompress(path.read_bytes())):
        passages = [SourcePassage(title, text) for title, text in value["passages"]]
        questions = [SourceQuestion(q["text"], q["own"], tuple(q["answers"])) for q in value["questions"]]
        found.append((Corpus(passages, questions), value["ranked"]))
    return found
