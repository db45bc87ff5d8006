"""Office answers: a folder of files and questions, through the whole embedded service, against bounds.

    python -m benchmarks.office --data DIR [--limit N] [--kinds a,b] [--bounds] [--json FILE] [--models DATA_DIR]

DIR holds `documents/` and `questions.jsonl` (docs/evaluation.md has its fields); without --data it is TSUMUGI_DATA, or
`office` below it. A service is started on an empty data dir, the files are uploaded, and the questions asked as an
evaluation. Questions about a file that could not be read count. --bounds: it ends with 1 when a bound does not hold;
bounds that no question was asked for are skipped, and say so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.office_bounds import Answered, measure
from cli.client import ApiProblem, Client
from cli.evaluate import outcomes, print_run
from cli.service_process import ServiceProcess
from core.types import Passage
from generation.evaluation.outcome import evidence_found
from generation.evaluation.questions import Question, chosen, parse_questions, read_questions

HITS = 5
"""Passages of a search in which the answer is looked for."""
_FAR_S = 7 * 86_400.0


@dataclass(slots=True)
class Shelf:
    """What became of the files."""

    passages: dict[str, int] = field(default_factory=dict)
    """Of each document that can be searched, by file name."""
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """{file name: {code, detail}}."""
    seconds: float = 0.0


def find_data(given: Path | None) -> Path | None:
    """Folder with documents and questions; None where there is none, which has been said then."""
    named = given or (Path(os.environ["TSUMUGI_DATA"]) if os.environ.get("TSUMUGI_DATA") else None)
    if named is None:
        print("SKIPPED: office answers, as neither --data nor TSUMUGI_DATA names a folder", file=sys.stderr)
        return None
    for folder in (named, named / "office"):
        if (folder / "questions.jsonl").is_file() and (folder / "documents").is_dir():
            return folder
    print(f"SKIPPED: office answers, as {named} holds no documents/ and questions.jsonl", file=sys.stderr)
    return None


@contextmanager
def running(models: Path | None) -> Iterator[ServiceProcess]:
    """A service on an empty data dir; `models` is a data dir whose prepared models are taken."""
    with tempfile.TemporaryDirectory(prefix="tsumugi-office-") as folder:
        data_dir = Path(folder) / "data"
        data_dir.mkdir()
        if models is not None:
            (data_dir / "models").symlink_to((models / "models").resolve())
        service = ServiceProcess(data_dir)
        try:
            service.start(timeout_s=600.0)
            yield service
        finally:
            service.stop()


def upload(client: Client, files: Sequence[Path]) -> Shelf:
    """Take files in and wait for all of them."""
    shelf, jobs, began = Shelf(), [], perf_counter()
    for path in files:
        name = unicodedata.normalize("NFC", path.name)
        try:
            with path.open("rb") as file:
                answer = client.post("/v1/documents", files={"file": (name, file)}, data={"external_id": name})
        except ApiProblem as problem:
            shelf.failed[name] = {"code": problem.problem.get("code"), "detail": problem.problem.get("detail")}
            continue
        members = answer["items"]
        # What an archive holds is told by its paths in it: ARCHIVE!/PATH.
        jobs += [(name if len(members) == 1 else one["document"]["external_id"], one) for one in members]
    for name, item in jobs:
        job = client.follow_job(item["job"]["id"], timeout_s=_FAR_S)
        if job["status"] == "succeeded":
            shelf.passages[name] = _count_passages(client, item["document"]["id"])
        else:
            shelf.failed[name] = job["error"] or {"code": job["status"], "detail": ""}
    shelf.seconds = perf_counter() - began
    return shelf


def ask_all(client: Client, questions: Sequence[Question]) -> tuple[dict[str, Any], list[Answered]]:
    """Run an evaluation and search for each answerable question; (run, questions with outcomes)."""
    body = {"questions": [one.model_dump(exclude_defaults=True) for one in questions], "name": "office"}
    run = client.post("/v1/admin/evaluations", body)
    client.follow_job(run["job"]["id"], _tell, timeout_s=_FAR_S)
    run = client.get(f"/v1/admin/evaluations/{run['id']}")
    answered = [
        Answered(question, row["outcome"], _retrieved(client, question))
        for question, row in zip(questions, outcomes(client, run["id"]), strict=True)
    ]
    return run, answered


def _retrieved(client: Client, question: Question) -> bool | None:
    if question.unanswerable:
        return None
    found = client.post("/v1/search", {"query": question.question, "limit": HITS, "collection": question.collection})
    hits = [
        Passage(
            chunk_id=hit["chunk_id"], document_id=hit["document_id"], generation=hit["generation"],
            filename=hit["filename"], page=hit["page"], heading=hit["heading"], start=hit["start"], end=hit["end"],
            text=hit["text"], score=hit["score"], relevance=hit["relevance"],
        )
        for hit in found["items"][:HITS]
    ]  # fmt: skip
    return evidence_found(question, hits)


def _count_passages(client: Client, document_id: str) -> int:
    return int(client.get(f"/v1/documents/{document_id}")["chunk_count"] or 0)


def _tell(job: dict[str, Any]) -> None:
    print(f"\rasked {100 * (job.get('progress') or 0):.0f} %   ", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with documents/ and questions.jsonl; default: TSUMUGI_DATA")
    parser.add_argument("--limit", type=int, help="so many questions, spread evenly over the file")
    parser.add_argument("--kinds", help="only questions of these kinds, with commas")
    parser.add_argument("--bounds", action="store_true", help="end with 1 when a bound does not hold")
    parser.add_argument("--json", type=Path, help="write figures and every outcome here")
    parser.add_argument("--models", type=Path, help="data dir whose prepared models are taken")
    arguments = parser.parse_args()
    data = find_data(arguments.data)
    if data is None:
        return 0
    given, unknown = read_questions(data / "questions.jsonl")
    if unknown:
        print(f"SKIPPED: fields that say nothing here: {', '.join(unknown)}", file=sys.stderr)
    kinds = [kind for kind in (arguments.kinds or "").split(",") if kind]
    questions = chosen(parse_questions(given), kinds=kinds, limit=arguments.limit)
    files = sorted(path for path in (data / "documents").iterdir() if path.is_file())
    with running(arguments.models) as service, service.client() as client:
        shelf = upload(client, files)
        run, answered = ask_all(client, questions)
    held = measure(answered)
    print(file=sys.stderr)
    print_run(run, [], 0)
    print_rest(shelf, answered)
    for one in held:
        told = "      -" if one.share is None else f"{one.share:7.3f}"
        print(
            f"{'pass' if one.holds else 'FAIL' if one.of else 'skip'}  {one.what:16} {one.over:24}{told} of {one.of:4}"
            f"  {'at most' if one.at_most else 'at least'} {one.bound:.2f}"
        )
    if arguments.json:
        text = json.dumps(as_json(shelf, run, answered, [one.to_json() for one in held]), ensure_ascii=False, indent=1)
        arguments.json.write_text(text + "\n", encoding="utf-8")
    return 1 if arguments.bounds and any(one.of and not one.holds for one in held) else 0


def print_rest(shelf: Shelf, answered: Sequence[Answered]) -> None:
    """Passages a document, seconds an answer, documents that failed."""
    counts = sorted(shelf.passages.values())
    if counts:
        most = max(shelf.passages, key=lambda name: shelf.passages[name])
        print(
            f"\n{len(counts)} documents in {shelf.seconds:.0f} s, {sum(counts)} passages:"
            f" {sum(counts) / len(counts):.1f} a document, median {counts[len(counts) // 2]},"
            f" most {counts[-1]} ({most})"
        )
    seconds = _seconds(answered)
    if seconds:
        print(f"seconds an answer: mean {sum(seconds) / len(seconds):.2f}, median {seconds[len(seconds) // 2]:.2f}")
    for name, why in sorted(shelf.failed.items()):
        print(f"failed: {name}: {why.get('code')}: {why.get('detail')}")


def _seconds(answered: Sequence[Answered]) -> list[float]:
    return sorted(one.outcome["total_ms"] / 1000 for one in answered if one.outcome["total_ms"] is not None)


def as_json(
    shelf: Shelf, run: dict[str, Any], answered: Sequence[Answered], bounds: list[dict[str, Any]]
) -> dict[str, Any]:
    """Everything that was measured."""
    seconds = _seconds(answered)
    return {
        "report": run["report"],
        "conditions": run["conditions"],
        "bounds": bounds,
        "passages": shelf.passages,
        "failed_documents": shelf.failed,
        "ingest_s": round(shelf.seconds, 1),
        "answer_s": {"mean": sum(seconds) / len(seconds), "median": seconds[len(seconds) // 2]} if seconds else None,
        "questions": [
            {**one.question.model_dump(exclude_defaults=True), "outcome": one.outcome, "retrieved": one.retrieved}
            for one in answered
        ],
    }


if __name__ == "__main__":
    sys.exit(main())
