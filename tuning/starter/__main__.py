"""Makes the starter's rows, in two steps because only the first needs the retrieval models.

python -m tuning.starter candidates --data DIR --out FOLDER      DIR holds the four SQuAD-shaped files
python -m tuning.starter rows --candidates FOLDER --out FOLDER   deterministic for one --seed
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random

from tuning.starter.rendering import Mixture, render_pass, render_served
from tuning.starter.sources import load_corpus, read_candidates, write_candidates

ENGLISH = {"squad_v1_38_articles.json": 0.12, "squad_v2_other_articles.json": 0.12}
JAQUAD = {"jaquad_train.json": 0.03}
JSQUAD = {"jsquad_valid.json": 0.15}
"""File names with the share of their articles held out for development."""
CORPORA = {"english": ENGLISH, "jaquad": JAQUAD, "jsquad": JSQUAD}
_SERVED = 3


def make_candidates(data: Path, out: Path) -> None:
    """Write `train-NAME.xz` and `dev-NAME.xz` for each corpus."""
    from tuning.starter.candidates import rank_corpus

    out.mkdir(parents=True, exist_ok=True)
    for name, shares in CORPORA.items():
        files = {data / file: share for file, share in shares.items()}
        for part in ("dev", "train"):
            corpus = load_corpus(files, held_out=part == "dev")
            ranked = rank_corpus(corpus)
            write_candidates(out / f"{part}-{name}.xz", [(corpus, ranked)])
            answered = [(q, r) for q, r in zip(corpus.questions, ranked, strict=True) if q.answers]
            recall = {k: sum(q.own in r[:k] for q, r in answered) / len(answered) for k in (1, 3, 5)}
            counts = {"passages": len(corpus.passages), "questions": len(corpus.questions)}
            print(json.dumps({"part": part, "corpus": name, **counts, "recall": recall}), flush=True)  # noqa: T201


def make_rows(candidates: Path, out: Path, passes: dict[str, float], seed: int, dev_limit: int) -> None:
    """Write `train.jsonl`, shuffled, and for each corpus `dev-NAME.jsonl` as serving would render it."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (candidates / f"train-{name}.xz", min(1.0, count - number), f"{seed}-{name}-{number}")
        for name, count in passes.items()
        for number in range(math.ceil(count))
    ]
    with ProcessPoolExecutor() as pool:
        rows = [line for part in pool.map(_render_one_pass, jobs) for line in part]
    Random(seed).shuffle(rows)
    (out / "train.jsonl").write_text("".join(rows), encoding="utf-8")
    for name in CORPORA:
        [(corpus, ranked)] = read_candidates(candidates / f"dev-{name}.xz")
        chosen = [i for i, question in enumerate(corpus.questions) if question.answers]
        chosen = sorted(Random(seed).sample(chosen, min(dev_limit, len(chosen))))
        with (out / f"dev-{name}.jsonl").open("w", encoding="utf-8") as lines:
            for i in chosen:
                row = render_served(corpus.questions[i], corpus.passages, ranked[i][:_SERVED])
                value = {**row.model_dump(), "answers": corpus.questions[i].answers}
                lines.write(json.dumps(value, ensure_ascii=False) + "\n")


def _render_one_pass(job: tuple[Path, float, str]) -> list[str]:
    """Lines of one pass over a corpus, each pass with its own seed, so that passes can be made side by side."""
    path, share, seed = job
    [(corpus, ranked)] = read_candidates(path)
    rows = render_pass(corpus, ranked, Mixture(), Random(seed), share=share)
    return [row.model_dump_json() + "\n" for row in rows]


def main() -> None:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m tuning.starter", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("candidates", help="retrieve passages for every question")
    first.add_argument("--data", type=Path, required=True)
    first.add_argument("--out", type=Path, required=True)
    second = commands.add_parser("rows", help="render training and development rows")
    second.add_argument("--candidates", type=Path, required=True)
    second.add_argument("--out", type=Path, required=True)
    second.add_argument("--english", type=float, default=4.0, help="passes over the English questions")
    second.add_argument("--jaquad", type=float, default=2.0, help="passes over the JaQuAD questions")
    second.add_argument("--jsquad", type=float, default=4.0, help="passes over the JSQuAD questions")
    second.add_argument("--dev-limit", type=int, default=1000, help="development questions of each corpus")
    second.add_argument("--seed", type=int, default=17)
    arguments = parser.parse_args()
    if arguments.command == "candidates":
        make_candidates(arguments.data, arguments.out)
    else:
        passes = {name: getattr(arguments, name) for name in CORPORA}
        make_rows(arguments.candidates, arguments.out, passes, arguments.seed, arguments.dev_limit)


if __name__ == "__main__":
    main()
