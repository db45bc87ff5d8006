"""The evaluation program: `python -m tuning.evaluate SPEC.json`. Same prompts, one base, several adapters.

Greedy decoding with transformers and PEFT; the base is the same model with its adapters off. References are read in
the same process for their likelihood. Progress goes to stdout as JSON lines: `{"event": "progress", "done", "total"}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from core.errors import InvalidInput, TsumugiError
from generation.adapters.forms import load_adapter
from generation.adapters.manifest import Fingerprint
from generation.chat import ChatFormat
from generation.engines.rotation import depends_on_length, forget_lengths
from generation.engines.text import stop_ids_of
from tuning.items import BASE, CANDIDATE, FEW_SHOT, EvaluateSpec, Evaluation, EvaluationItem, SystemOutput, read_items
from tuning.known_answers import KnownAnswers
from tuning.template import TrainingTemplate

EXIT_FAILED = 1
EXIT_USAGE = 2

Report = Callable[[int, int], None]


def evaluate(spec: EvaluateSpec, report: Report) -> Evaluation:
    """Answer and read all items with every system; writes `spec.result_path` and returns what it holds."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    started = time.monotonic()
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    items = read_items(spec.items_path)
    device, dtype = _place(spec)
    tokenizer = AutoTokenizer.from_pretrained(spec.base_path)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(spec.base_path, dtype=dtype).to(device)
    adapted: Any = None
    for name, folder in spec.adapters.items():
        adapted = load_adapter(model if adapted is None else adapted, folder, name)
    model = (adapted if adapted is not None else model).eval()

    read_only = set(spec.read_only)
    answered = [item for item in items if item.id not in read_only and not item.raw]
    read = [item for item in items if item.reference is not None]
    shown = [item.model_copy(update={"prompt": item.few_shot}) for item in answered if item.few_shot]
    known = KnownAnswers(spec.known_path, f"{device} {dtype}", spec.max_new_tokens)
    said = known.of(items)
    unknown = [[item for item in part if item.id not in said] for part in (answered, read)]
    parts = {BASE: (unknown[0], unknown[1]), **dict.fromkeys(spec.adapters, (answered, read))}
    if shown:
        parts[FEW_SHOT] = (shown, [item for item in shown if item.reference is not None])
    total = sum(len(part) for both in parts.values() for part in both)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report(done, total)

    outputs: dict[str, dict[str, SystemOutput]] = {}
    with torch.inference_mode():
        for system, (asked, referred) in parts.items():
            with _active(adapted, system):
                texts = _answer(model, tokenizer, asked, spec, device, advance)
                likelihoods = _read(model, tokenizer, referred, spec, device, advance)
            outputs[system] = {}
            for item in items if system != FEW_SHOT else shown:
                text, finished = texts.get(item.id, (None, None))
                outputs[system][item.id] = SystemOutput(text=text, finished=finished, nll=likelihoods.get(item.id))
            if system == BASE:
                known.keep(items, outputs[BASE] | said)
                outputs[BASE] |= said
        if spec.fingerprint_path is not None:
            _write(spec.fingerprint_path, _fingerprint(adapted, tokenizer).model_dump_json())
    result = Evaluation(
        systems=outputs,
        max_new_tokens=spec.max_new_tokens,
        device=device,
        precision=str(dtype).removeprefix("torch."),
        seconds=round(time.monotonic() - started, 1),
    )
    _write(spec.result_path, result.model_dump_json())
    return result


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _fingerprint(adapted: Any, tokenizer: Any) -> Fingerprint:
    """What the candidate does to the probe prompts, measured here because model and adapter are loaded already.

    Raises:
        AdapterRefused: it has no effect, or gives numbers that are none.
    """
    from generation.adapters.fingerprint import make_fingerprint, probe_batch, probe_ids, widened

    ids = probe_ids(tokenizer)
    measured = []
    for system in (BASE, CANDIDATE):
        with _active(adapted, system), widened(adapted):
            measured.append(probe_batch(adapted, ids))
    return make_fingerprint(*measured)


@contextlib.contextmanager
def _active(adapted: Any, system: str) -> Iterator[None]:
    """Only this system's adapter acts; none for the base."""
    if adapted is None:
        yield
    elif system in {BASE, FEW_SHOT}:
        with adapted.disable_adapter():
            yield
    else:
        adapted.set_adapter(system)
        yield


def _batches(items: Sequence[tuple[str, list[int]]], size: int) -> Iterator[list[tuple[str, list[int]]]]:
    """Like lengths together: left padding is computed in vain."""
    ordered = sorted(items, key=lambda pair: (-len(pair[1]), pair[0]))
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def _together(model: Any, spec: EvaluateSpec) -> int:
    """Items of a batch; one where the longest would turn the others."""
    return 1 if depends_on_length(model.config) else spec.batch


def _answer(
    model: Any,
    tokenizer: Any,
    items: Sequence[EvaluationItem],
    spec: EvaluateSpec,
    device: str,
    advance: Callable[[int], None],
) -> dict[str, tuple[str, bool]]:
    """Greedy answers: text and whether it ended by itself."""
    import torch

    chat = ChatFormat.of(tokenizer)
    stops = sorted(stop_ids_of(model, tokenizer, template=chat.stop_id))
    answers: dict[str, tuple[str, bool]] = {}
    for batch in _batches([(item.id, chat.encode(item.prompt)) for item in items], _together(model, spec)):
        forget_lengths(model)
        inputs = tokenizer.pad({"input_ids": [ids for _, ids in batch]}, return_tensors="pt").to(device)
        generated = model.generate(
            **inputs,
            max_new_tokens=spec.max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=stops,
        )
        new = generated[:, inputs["input_ids"].shape[1] :]
        for (key, _), row in zip(batch, new, strict=True):
            ends = torch.isin(row, torch.tensor(stops, device=row.device)).nonzero()
            finished = bool(len(ends))
            kept = row[: int(ends[0])] if finished else row
            answers[key] = (chat.visible(chat.decode(tokenizer, kept.tolist())).strip(), finished)
        advance(len(batch))
    return answers


def _read(
    model: Any,
    tokenizer: Any,
    items: Sequence[EvaluationItem],
    spec: EvaluateSpec,
    device: str,
    advance: Callable[[int], None],
) -> dict[str, float]:
    """Mean negative log-likelihood per token of each reference and its stop token, given its prompt."""
    import torch

    template = TrainingTemplate(tokenizer)
    chat, stop = template.chat, template.stop_id
    prompts: dict[str, list[int]] = {}
    references: dict[str, list[int]] = {}
    for item in items:
        reference = item.reference if item.raw else template.completion_text(str(item.reference))
        ids = tokenizer(reference, add_special_tokens=False)["input_ids"]
        if item.raw:  # the first token has nothing before it that could predict it
            prompts[item.id], references[item.id] = ids[:1], ids[1:]
        else:
            prompts[item.id], references[item.id] = chat.encode(item.prompt), [*ids, stop]
    found: dict[str, float] = {}
    for batch in _batches([(key, prompts[key] + references[key]) for key in prompts], _together(model, spec)):
        forget_lengths(model)
        inputs = tokenizer.pad({"input_ids": [ids for _, ids in batch]}, return_tensors="pt").to(device)
        longest = max(len(references[key]) for key, _ in batch)
        # Only the positions that predict a reference are unembedded: the vocabulary is the widest layer by far.
        logits = model(**inputs, logits_to_keep=longest + 1, use_cache=False).logits[:, :-1].float()
        log_probabilities = torch.log_softmax(logits, dim=-1)
        for at, (key, _) in enumerate(batch):
            wanted = torch.tensor(references[key], device=logits.device)
            chosen = log_probabilities[at, -len(wanted) :].gather(1, wanted[:, None])
            found[key] = float(-chosen.mean())
        advance(len(batch))
    return found


def _place(spec: EvaluateSpec) -> tuple[str, Any]:
    """Device and precision: bfloat16 where it is computed natively, as in serving and in training."""
    import torch

    device = spec.device if spec.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda":
        return device, torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    native = any(bool(probe()) for probe in probes if probe is not None)
    return device, torch.bfloat16 if native else torch.float32


def main(arguments: list[str]) -> int:
    """Entry point; see the module."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tuning.evaluate SPEC.json\n")
        return EXIT_USAGE
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever libraries print goes to stderr

    def say(**event: Any) -> None:
        stream.write(json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n")
        stream.flush()

    try:
        try:
            spec = EvaluateSpec.model_validate_json(Path(arguments[0]).read_bytes())
        except (OSError, ValidationError) as error:
            raise InvalidInput(f"evaluation spec {arguments[0]}: {error}", code="invalid_evaluate_spec") from error
        result = evaluate(spec, lambda done, total: say(event="progress", done=done, total=total))
    except TsumugiError as error:
        say(event="error", code=error.code, detail=error.detail)
        return EXIT_FAILED
    say(event="done", seconds=result.seconds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
