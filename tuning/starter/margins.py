"""What moving the refusal's first token would do: refusals by shift, on development questions.

    python -m tuning.starter.margins --candidates FOLDER [--limit N] [--starter FOLDER]

Prints for each corpus how many questions are refused over their passage (wrongly) and without it (rightly), at shifts
beside the present one. Without: the passage is taken out of the ranking, or was never in it. `first_token` applies one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from generation.prompt import not_found_text
from tuning.spec import TrainRow
from tuning.starter.rendering import render_served
from tuning.starter.sources import Corpus, read_candidates
from tuning.template import TrainingTemplate

_SERVED = 3
_SHIFTS = [step / 4 for step in range(-8, 9)]


def sample(
    corpus: Corpus, ranked: list[list[int]], limit: int, seed: int = 17
) -> tuple[list[TrainRow], list[TrainRow]]:
    """Rows as served: `limit` with their passage among the first three, half as many without."""
    answered = [at for at, question in enumerate(corpus.questions) if question.answers]
    Random(seed).shuffle(answered)
    found = [at for at in answered if corpus.questions[at].own in ranked[at][:_SERVED]][:limit]
    taken = set(found)
    missed = [at for at in answered if at not in taken][: limit // 2]

    def served(at: int, order: list[int]) -> TrainRow:
        return render_served(corpus.questions[at], corpus.passages, order[:_SERVED])

    without = [[number for number in ranked[at] if number != corpus.questions[at].own] for at in missed]
    return [served(at, ranked[at]) for at in found], [
        served(at, rest) for at, rest in zip(missed, without, strict=True)
    ]


def margin(model: Any, tokenizer: Any, row: TrainRow) -> float:
    """Logit of the refusal's first token less the highest other one, where the answer begins."""
    import torch

    prompt = tokenizer(TrainingTemplate(tokenizer).prompt_text(row.prompt), add_special_tokens=False)["input_ids"]
    question = row.prompt[-1].content.rpartition("Question: ")[2]
    refusal = tokenizer(not_found_text(question), add_special_tokens=False)["input_ids"][0]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt]), logits_to_keep=1).logits[0, -1].float()
        others = torch.cat([logits[:refusal], logits[refusal + 1 :]])
        return float(logits[refusal] - others.max())


def main() -> None:
    """Command line; see the module."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from generation.models import prepare_base
    from tuning.starter.ship import SHIPPED

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200, help="questions of each corpus with their passage")
    parser.add_argument("--starter", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as models:
        path = prepare_base(Path(models), arguments.starter).path
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    print(f"{'':10}{'n':>9}  " + " ".join(f"{shift:+6.2f}" for shift in _SHIFTS))  # noqa: T201
    for name in ("english", "jsquad", "jaquad"):
        [(corpus, ranked)] = read_candidates(arguments.candidates / f"dev-{name}.xz")
        for side, rows in zip(("with", "without"), sample(corpus, ranked, arguments.limit), strict=True):
            margins = [margin(model, tokenizer, row) for row in rows]
            shares = [sum(value + shift > 0 for value in margins) / len(margins) for shift in _SHIFTS]
            print(f"{name:10}{side:>7}{len(rows):4} " + " ".join(f"{share:6.3f}" for share in shares), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
