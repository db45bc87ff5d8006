"""The training program: `python -m tuning.train SPEC.json`. TRL's trainers and PEFT do the work.

Says what happens as JSON lines on stdout (`tuning.spec.TrainEvent`); whatever libraries print goes to stderr. SIGTERM
and SIGINT finish the step in hand, save a checkpoint and exit with 75; the same spec run again goes on from there, also
after a death of any other kind. Under `torchrun` or `accelerate launch` it trains on several processes, and the first
one speaks.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from core.errors import DatasetRejected, InvalidInput, TsumugiError
from core.processes import end_with_parent
from tuning.audits import audit_loss
from tuning.checkpoints import COMPLETE, last_complete_checkpoint, load_weights, step_of
from tuning.child import cap_gpu_memory
from tuning.clock import build_clock
from tuning.events import Emit, EventWriter, StageEvents, StopRequest, build_reporter
from tuning.export import write_adapter, write_merged
from tuning.kinds import AdapterKind, Method
from tuning.launching import world_size
from tuning.lean_forward import use_lean_forward
from tuning.merge import load_factors, merge_adapters
from tuning.methods import build_trainer
from tuning.methods.work import Work, rows_for
from tuning.precision import choose_dtype
from tuning.recipe import MergeMethod, Recipe, stages_of
from tuning.spec import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    TrainEvent,
    TrainSpec,
    load_spec,
    read_rows,
)
from tuning.template import load_tokenizer

if TYPE_CHECKING:
    from tuning.methods.work import Built

_STEPS_FILE = "steps"
"""Beside a finished stage's adapter: how many steps it took."""
_LEAN = frozenset({AdapterKind.LORA, AdapterKind.RSLORA, AdapterKind.PISSA})


def train(spec: TrainSpec, emit: Emit, stop: StopRequest) -> int:
    """Train one adapter, in as many stages as the recipe has; returns the exit status.

    Raises:
        DatasetRejected: the rows failed an audit; nothing was computed.
    """
    started = time.monotonic()
    stages = stages_of(spec.recipe)
    if isinstance(spec.recipe, MergeMethod):
        return _merge(spec, spec.recipe, emit, started=started)
    if len(stages) == 1:
        return _train_stage(spec, stages[0], emit, stop, started=started)
    folder = spec.run_dir / "stages"
    before = 0
    warm_start = spec.warm_start
    for number, recipe in enumerate(stages, start=1):
        name = f"{number}-{recipe.method}"
        last = number == len(stages)
        output = spec.output_dir if last else folder / name / "adapter"
        if not last and (folder / name / _STEPS_FILE).exists():
            before += int((folder / name / _STEPS_FILE).read_text())
            warm_start = output
            continue
        stage = spec.model_copy(
            update={"run_dir": folder / name, "output_dir": output, "warm_start": warm_start, "recipe": recipe}
        )
        counter = StageEvents(
            emit, name, before, behind=sum(later.batch.max_steps or 0 for later in stages[number:]), last=last
        )
        status = _train_stage(stage, recipe, counter, stop, started=started)
        if status != EXIT_DONE:
            return status
        if not last and os.environ.get("RANK", "0") == "0":
            (folder / name / _STEPS_FILE).write_text(str(counter.steps))
        before += counter.steps
        warm_start = output
    return EXIT_DONE


def _train_stage(spec: TrainSpec, recipe: Recipe, emit: Emit, stop: StopRequest, *, started: float) -> int:
    import torch
    from peft.helpers import disable_input_dtype_casting

    on_gpu = torch.cuda.is_available()
    dtype = choose_dtype(recipe, on_gpu=on_gpu)
    checkpoints = spec.run_dir / "checkpoints"
    _remove_partial(checkpoints)
    rows = rows_for(recipe.method, read_rows(spec.rows_path))
    work = Work(
        recipe=recipe,
        base_path=spec.base_path,
        checkpoints=checkpoints,
        seed=spec.seed,
        tokenizer=load_tokenizer(spec.base_path),
        rows=rows,
        eval_rows=_held_out(spec, recipe),
        dtype=dtype,
        on_gpu=on_gpu,
        warm_start=spec.warm_start,
        reward_sources=spec.reward_sources,
        teacher_path=spec.teacher_path,
    )
    built = build_trainer(work)
    trainer = built.trainer
    if recipe.batch.max_seconds is not None:
        trainer.add_callback(build_clock(recipe, started + recipe.batch.max_seconds))
    trainer.add_callback(build_reporter(emit, stop))
    if on_gpu:
        _speed_up(trainer.model, recipe)
    elif recipe.adapter in _LEAN and recipe.factors.dropout == 0:
        use_lean_forward(trainer.model)
    if recipe.method is Method.SFT:
        audit_loss(trainer)
    checkpoint = last_complete_checkpoint(checkpoints)
    emit(_start(built, work, checkpoint))
    if checkpoint is not None and step_of(checkpoint) >= trainer.args.max_steps:
        # killed between its last step and the adapter's move
        load_weights(trainer.accelerator.unwrap_model(trainer.model), checkpoint)
        step = total = trainer.args.max_steps
    else:
        # Under autocast the casts of every LoRA input to float32 and back are pure memory traffic.
        with disable_input_dtype_casting(trainer.model, active=dtype is torch.bfloat16):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        step, total = trainer.state.global_step, trainer.state.max_steps
    if stop.wanted and step < total:
        emit(TrainEvent(event="interrupted", step=step, total_steps=total))
        return EXIT_INTERRUPTED
    if work.eval_rows is not None:
        trainer.evaluate()
    kept = write_adapter(trainer, built.attached, recipe, spec.base_path, spec.output_dir)
    seconds = round(time.monotonic() - started, 1)
    emit(TrainEvent(event="done", step=step, total_steps=total, path=str(spec.output_dir), seconds=seconds, kept=kept))
    return EXIT_DONE


def _merge(spec: TrainSpec, recipe: MergeMethod, emit: Emit, *, started: float) -> int:
    """No training: the adapters' changes, combined."""
    parts = [load_factors(part.path) for part in spec.merge_parts]
    emit(TrainEvent(event="start", rows=0, device="cpu", precision="float32"))
    merged = merge_adapters(parts, [part.weight for part in spec.merge_parts], recipe.merge, seed=spec.seed)
    write_merged(merged.rank, merged.targets, merged.state, spec.output_dir)
    seconds = round(time.monotonic() - started, 1)
    emit(TrainEvent(event="done", step=0, path=str(spec.output_dir), seconds=seconds, kept=merged.kept))
    return EXIT_DONE


def _held_out(spec: TrainSpec, recipe: Recipe) -> Any:
    """Held-out rows that the method can be evaluated on; None where there are none, or it writes its own answers."""
    if spec.eval_rows_path is None or recipe.method.online:
        return None
    try:
        return rows_for(recipe.method, read_rows(spec.eval_rows_path))
    except DatasetRejected:
        return None  # a small set may hold out no row of this kind; the gate judges all the same


def _start(built: Built, work: Work, checkpoint: Path | None) -> TrainEvent:
    return TrainEvent(
        event="start",
        rows=len(work.rows),
        supervised_tokens=built.supervised_tokens,
        supervised_histogram=built.supervised_histogram or None,
        padded=built.padded,
        trainable_parameters=sum(p.numel() for p in built.trainer.model.parameters() if p.requires_grad),
        resumed_from=step_of(checkpoint) if checkpoint else None,
        device="cuda" if work.on_gpu else "cpu",
        precision=str(work.dtype).removeprefix("torch."),
        processes=work.processes if work.processes > 1 else None,
        recomputed=built.trainer.args.gradient_checkpointing or None,
    )


def _remove_partial(checkpoints: Path) -> None:
    """Saves that a death cut short: the trainer would count them among those it keeps."""
    if os.environ.get("RANK", "0") != "0":
        return
    for folder in checkpoints.glob("checkpoint-*"):
        if not (folder / COMPLETE).exists():
            shutil.rmtree(folder)


def _speed_up(model: Any, recipe: Recipe) -> None:
    """What a GPU gains from: fewer and larger kernels, for the same function and the same gradients."""
    if recipe.compile_layers:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        decoder = base.get_decoder() if hasattr(base, "get_decoder") else base.model
        for layer in decoder.layers:  # one compilation serves all layers and all lengths
            layer.compile(dynamic=True)


@contextlib.contextmanager
def _own_stdout() -> Iterator[TextIO]:
    """The real stdout for events; anything else written to descriptor 1 goes to stderr while the context lasts."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    stream = os.fdopen(kept, "w", encoding="utf-8")
    try:
        yield stream
    finally:
        stream.flush()
        os.dup2(kept, 1)
        stream.close()


def main(arguments: list[str]) -> int:
    """Entry point; see the module."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m tuning.train SPEC.json\n")
        return EXIT_USAGE
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    with _own_stdout() as stream:
        emit = EventWriter(stream, speaks=os.environ.get("RANK", "0") == "0")
        stop = StopRequest()
        if world_size() > 1:
            end_with_parent()  # the launcher starts processes in sessions of their own, where no signal reaches them
            cap_gpu_memory()
        try:
            status = train(load_spec(Path(arguments[0])), emit, stop)
            _leave_together()
            return status
        except TsumugiError as error:
            emit(TrainEvent(event="error", code=error.code, detail=error.detail))
            return EXIT_USAGE if isinstance(error, DatasetRejected | InvalidInput) else EXIT_FAILED


def _leave_together() -> None:
    """End the process group, if there is one: a process that exits while others still talk to it makes them abort."""
    if world_size() < 2:
        return
    import torch.distributed as group

    if group.is_available() and group.is_initialized():
        group.barrier()
        group.destroy_process_group()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
