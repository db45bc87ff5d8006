"""Reads the starter's held-out questions on a GPU or a CPU, and shows what shifting its refusals would trade.

    python -m benchmarks.starter --candidates FOLDER --base FOLDER [--adapter FOLDER] [--limit N] [--lines FILE]
    python -m benchmarks.starter --lines FILE          the table again, from what an earlier run wrote

The questions come with the top three of our own ranking. Whether an answer refuses is decided by its first token; the
margin is that token's logit less the highest other one. So one pass tells all shifts: a question is refused where its
margin plus the shift is positive, and answered otherwise with what the model says when it may not refuse.
`tuning.starter.first_token` applies a shift. Whole-service figures come from `benchmarks.reading`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.reading_scores import Reply, summarise
from core.types import Language
from generation.prompt import not_found_text
from tuning.spec import TrainRow
from tuning.starter.rendering import render_served
from tuning.starter.sources import read_candidates
from tuning.template import TrainingTemplate

CORPORA = {"english": Language.ENGLISH, "jsquad": Language.JAPANESE, "jaquad": Language.JAPANESE}
_SERVED = 3
_MAX_NEW_TOKENS = 72
_SHIFTS = [step / 4 for step in range(-12, 13)]
_SEED = 17


def questions(candidates: Path, name: str, limit: int) -> list[dict[str, Any]]:
    """Served rows of a corpus, and the same questions with their passage taken out of the ranking."""
    [(corpus, ranked)] = read_candidates(candidates / f"dev-{name}.xz")
    chosen = [at for at, question in enumerate(corpus.questions) if question.answers]
    chosen = sorted(Random(_SEED).sample(chosen, min(limit, len(chosen))))
    found = []
    for at in chosen:
        question, order = corpus.questions[at], ranked[at]
        for kind, shown in (("served", order), ("removed", [n for n in order if n != question.own])):
            top = shown[:_SERVED]
            gold = [number for number, passage in enumerate(top, start=1) if passage == question.own]
            row = render_served(question, corpus.passages, top)
            line = {"corpus": name, "kind": kind, "question": question.text, "answers": question.answers, "gold": gold}
            found.append({**line, "row": row})
    return found


def read(base: Path, adapter: Path | None, asked: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each question with its margin and, where it was served, the answer when refusing is not allowed."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    model = model.to(device, torch.bfloat16).eval()
    template = TrainingTemplate(tokenizer)
    prompts = {id(item): _prompt(tokenizer, template, item["row"]) for item in asked}
    for batch in _batches(sorted(asked, key=lambda item: len(prompts[id(item)])), 192 if device == "cuda" else 4):
        encoded = tokenizer.pad({"input_ids": [prompts[id(item)] for item in batch]}, return_tensors="pt").to(device)
        refusals = torch.tensor([tokenizer(not_found_text(i["question"]))["input_ids"][0] for i in batch]).to(device)
        with torch.inference_mode():
            logits = model(**encoded, logits_to_keep=1).logits[:, -1].float()
            own = logits.gather(1, refusals[:, None])[:, 0]
            margins = (own - logits.scatter(1, refusals[:, None], float("-inf")).amax(1)).tolist()
            served = torch.tensor([item["kind"] == "served" for item in batch], device=device)
            answers = _answer(model, tokenizer, encoded, refusals, served)
        for item, margin in zip(batch, margins, strict=True):
            line = {key: value for key, value in item.items() if key != "row"}
            yield {**line, "margin": round(margin, 3), "answer": next(answers) if item["kind"] == "served" else None}


def _prompt(tokenizer: Any, template: TrainingTemplate, row: TrainRow) -> list[int]:
    ids: list[int] = tokenizer(template.prompt_text(row.prompt), add_special_tokens=False)["input_ids"]
    return ids


def _batches(asked: Sequence[dict[str, Any]], size: int) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(asked), size):
        yield asked[start : start + size]


def _answer(model: Any, tokenizer: Any, encoded: Any, refusals: Any, served: Any) -> Iterator[str]:
    """Greedy answers of the rows that were served, in order; their first token is not the refusal's."""
    if not bool(served.any()):
        return iter(())
    ids, mask = encoded["input_ids"][served], encoded["attention_mask"][served]
    banned, length = refusals[served], ids.shape[1]

    def ban_refusal(seen: Any, scores: Any) -> Any:
        if seen.shape[1] == length:
            return scores.scatter(1, banned[:, None], float("-inf"))
        return scores

    written = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=_MAX_NEW_TOKENS,
        logits_processor=[ban_refusal],
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return iter(tokenizer.batch_decode(written[:, length:], skip_special_tokens=True))


def figures(lines: Sequence[dict[str, Any]], shift: float) -> dict[str, Any]:
    """Figures of one corpus at one shift; `removed` is the share refused with the passage taken out."""
    replies = []
    for line in lines:
        if line["kind"] == "served":
            language = CORPORA[line["corpus"]]
            text = not_found_text(line["question"]) if line["margin"] + shift > 0 else line["answer"]
            replies.append(Reply.of(language, text, line["answers"], line["gold"]))
    removed = [line["margin"] + shift > 0 for line in lines if line["kind"] == "removed"]
    return {**summarise(replies), "removed": round(sum(removed) / len(removed), 4)}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=Path, help="what `python -m tuning.starter candidates` wrote")
    parser.add_argument("--base", type=Path, help="prepared base model")
    parser.add_argument("--adapter", type=Path, help="adapter on it")
    parser.add_argument("--limit", type=int, default=1000, help="questions of each corpus")
    parser.add_argument("--lines", type=Path, required=True, help="JSON lines, a question each: written, or read again")
    arguments = parser.parse_args()
    if arguments.candidates is not None:
        asked = [item for name in CORPORA for item in questions(arguments.candidates, name, arguments.limit)]
        with arguments.lines.open("w", encoding="utf-8") as file:
            for line in read(arguments.base, arguments.adapter, asked):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
    lines = [json.loads(line) for line in arguments.lines.read_text("utf-8").splitlines()]
    for name in CORPORA:
        own = [line for line in lines if line["corpus"] == name]
        print(f"{name}, shift: exact match, F1, citation, refused without / with the passage, refused when taken out")
        for shift in _SHIFTS:
            row = figures(own, shift)
            names = ("exact_match", "f1", "citation", "refusal_right", "refusal_wrong", "removed")
            print(f"{shift:+6.2f} " + " ".join(f"{row[n]:7.3f}" if row[n] is not None else "      -" for n in names))


if __name__ == "__main__":
    main()
