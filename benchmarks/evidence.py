"""Fits and measures the evidence stage over a folder of office files: ranking, confidence and what refusing costs.

    python -m benchmarks.evidence --data DIR [--limit N] [--json FILE] [--parameters FILE]

DIR as for `benchmarks.office`. Files go through the real ingest; every candidate that the passages found make is judged
against what is expected, with no model. Weights are fitted on the questions of four fifths of the documents and tried
on the rest, five times. --parameters writes those fitted on all, in the form of `generation/evidence/parameters.json`;
the bounds of refusing and verifying are taken over from the shipped ones.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.ingested import Ingested, open_ingested
from benchmarks.office import find_data
from core.errors import TsumugiError
from core.log import configure
from generation.evaluation.evidence import Judged, judge_candidates, measure
from generation.evaluation.questions import chosen, parse_questions, read_questions
from generation.evidence.parameters import SHIPPED, shipped_parameters
from ingest.upload import Upload


def ingest_folder(service: Ingested, folder: Path) -> None:
    """Take in the files of a folder, those of archives as well; says which cannot be read."""
    for file in sorted((folder / "documents").iterdir()):
        try:
            service.add([Upload(file.name, file.read_bytes())])
        except TsumugiError as error:
            print(f"not read: {file.name}: {error.code}")


def read_folder(folder: Path, limit: int | None) -> list[Judged]:
    """Ingest the files and judge every candidate of every question."""
    questions = chosen(parse_questions(read_questions(folder / "questions.jsonl")[0]), limit=limit)
    today = datetime.now(UTC).date()
    judged = []
    with open_ingested() as service:
        ingest_folder(service, folder)
        for question in questions:
            one = judge_candidates(question, service.retrieval.searcher, service.principal, today)
            if one is not None:
                judged.append(one)
    return judged


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with documents/ and questions.jsonl")
    parser.add_argument("--limit", type=int, help="ask at most so many questions, spread over the file")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--parameters", type=Path, help="write the fitted parameters here")
    arguments = parser.parse_args()
    configure("ERROR")
    folder = find_data(arguments.data)
    if folder is None:
        return 0
    figures, stored = measure(read_folder(folder, arguments.limit))
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")
    if arguments.parameters:
        stored = shipped_parameters().to_json() | stored
        arguments.parameters.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        print(f"wrote {arguments.parameters}; the shipped ones are generation/evidence/{SHIPPED}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
