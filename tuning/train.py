"""The training program: `python -m tuning.train SPEC.json`. TRL's SFTTrainer and PEFT do the work.

Says what happens as JSON lines on stdout (`tuning.spec.TrainEvent`); whatever libraries print goes to stderr. SIGTERM
and SIGINT finish the step in hand, save a checkpoint and exit with 75; the same spec run again goes on from there.
Under `torchrun` or `accelerate launch` it trains on several GPUs, and the first process speaks.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from core.errors import DatasetRejected, InvalidInput, TsumugiError
from tuning.clock import build_clock
from tuning.merged_forward import WIDEST, use_merged_forward
from tuning.recipe import Recipe
from tuning.rows import EncodedRow, encode_rows, order_by_length
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
from tuning.trainers import batches_by_tokens, cpu_trainer, drop_attention_mask, gpu_trainer

if TYPE_CHECKING:
    import torch

_COMPLETE = "complete"
"""Written last into a checkpoint folder; without it the save was cut short and the folder is passed over."""


class EventWriter:
    """Writes events to the process's real stdout. Only rank 0 of a distributed run speaks."""

    def __init__(self, stream: TextIO, *, speaks: bool) -> None:
        self._stream = stream
        self._speaks = speaks

    def __call__(self, event: TrainEvent) -> None:
        """Write one line and flush it: the reader is a pipe and waits."""
        if self._speaks:
            self._stream.write(event.line() + "\n")
            self._stream.flush()


class StopRequest:
    """Remembers that a signal asked the run to stop; the trainer looks after each step."""

    def __init__(self) -> None:
        self.wanted = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.wanted = True


def train(spec: TrainSpec, emit: Callable[[TrainEvent], None], stop: StopRequest) -> int:
    """Train one adapter; returns the exit status.

    Raises:
        DatasetRejected: the rows failed an audit; nothing was computed.
    """
    import torch
    from peft.helpers import disable_input_dtype_casting
    from transformers import AutoTokenizer

    started = time.monotonic()
    recipe = spec.recipe
    on_gpu = torch.cuda.is_available()
    dtype = _choose_dtype(recipe, on_gpu=on_gpu)
    tokenizer = AutoTokenizer.from_pretrained(spec.base_path)
    rows = encode_rows(tokenizer, read_rows(spec.rows_path), max_tokens=recipe.batch.max_tokens)
    eval_rows = None
    if spec.eval_rows_path is not None:
        eval_rows = encode_rows(tokenizer, read_rows(spec.eval_rows_path), max_tokens=recipe.batch.max_tokens)

    trainer = _build_trainer(spec, tokenizer, rows, eval_rows, dtype=dtype, on_gpu=on_gpu)
    if recipe.batch.max_seconds is not None:
        trainer.add_callback(build_clock(recipe, started + recipe.batch.max_seconds))
    trainer.add_callback(_build_callback(emit, stop))
    if spec.warm_start is not None:
        _load_weights(trainer, spec.warm_start)
    if on_gpu:
        _speed_up(trainer.model, recipe)
    checkpoint = last_complete_checkpoint(_checkpoints(spec))
    emit(
        TrainEvent(
            event="start",
            rows=len(rows),
            supervised_tokens=sum(row.supervised_tokens for row in rows),
            trainable_parameters=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
            resumed_from=_step_of(checkpoint) if checkpoint else None,
            device="cuda" if on_gpu else "cpu",
            precision=str(dtype).removeprefix("torch."),
        )
    )
    if checkpoint is not None and _step_of(checkpoint) >= trainer.args.max_steps:
        _load_weights(trainer, checkpoint)  # a run that was killed between its last step and the adapter's move
        step = total = trainer.args.max_steps
    else:
        # Under autocast the casts of every LoRA input to float32 and back are pure memory traffic.
        with disable_input_dtype_casting(trainer.model, active=dtype is torch.bfloat16):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        step, total = trainer.state.global_step, trainer.state.max_steps
    if stop.wanted and step < total:
        emit(TrainEvent(event="interrupted", step=step, total_steps=total))
        return EXIT_INTERRUPTED
    if eval_rows is not None:
        trainer.evaluate()
    if trainer.is_world_process_zero():
        _save_adapter(trainer, spec.output_dir)
    seconds = round(time.monotonic() - started, 1)
    emit(TrainEvent(event="done", step=step, total_steps=total, path=str(spec.output_dir), seconds=seconds))
    return EXIT_DONE


def _speed_up(model: Any, recipe: Recipe) -> None:
    """What a GPU gains from: fewer and larger kernels, for the same function and the same gradients."""
    text_model = model.get_base_model().model
    if text_model.config.hidden_size <= WIDEST and recipe.lora.dropout == 0:
        use_merged_forward(model)
    if recipe.compile_layers:
        for layer in text_model.layers:  # one compilation serves all layers and all lengths
            layer.compile(dynamic=True)


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose save finished, or None."""
    found = [path for path in folder.glob("checkpoint-*") if (path / _COMPLETE).exists()]
    return max(found, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _load_weights(trainer: Any, folder: Path) -> None:
    """Put an adapter's weights into the trainer's; every one of them must find its place."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    own = {name: value.shape for name, value in get_peft_model_state_dict(trainer.model).items()}
    if own != {name: value.shape for name, value in weights.items()}:
        raise InvalidInput(f"The adapter in {folder} has other layers or another rank", code="invalid_train_spec")
    set_peft_model_state_dict(trainer.model, weights)


def _checkpoints(spec: TrainSpec) -> Path:
    return spec.run_dir / "checkpoints"


def _choose_dtype(recipe: Recipe, *, on_gpu: bool) -> torch.dtype:
    """Precision of base and arithmetic. bfloat16 only where it is computed natively: emulated it is slower."""
    import torch

    if recipe.precision == "float32":
        return torch.float32
    if recipe.precision == "bfloat16":
        return torch.bfloat16
    if on_gpu:
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if _cpu_computes_bfloat16() else torch.float32


def _cpu_computes_bfloat16() -> bool:
    """Whether this CPU has bfloat16 dot products (AVX512-BF16 or AMX)."""
    import torch

    probes = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return any(bool(probe()) for probe in probes if probe is not None)


def _build_trainer(
    spec: TrainSpec,
    tokenizer: Any,
    rows: list[EncodedRow],
    eval_rows: list[EncodedRow] | None,
    *,
    dtype: torch.dtype,
    on_gpu: bool,
) -> Any:
    """TRL's trainer over pre-tokenised rows, with the recipe's numbers and none of TRL's defaults left to chance."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig

    recipe = spec.recipe
    batch, optimiser, cadence = recipe.batch, recipe.optimiser, recipe.cadence
    model = AutoModelForCausalLM.from_pretrained(spec.base_path, dtype=dtype, attn_implementation="sdpa")
    model.model.register_forward_pre_hook(drop_attention_mask, with_kwargs=True)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora.rank,
        lora_alpha=recipe.lora.alpha,
        use_rslora=recipe.lora.rank_stabilised,
        lora_dropout=recipe.lora.dropout,
        target_modules=list(recipe.lora.targets),
        bias="none",
    )
    arguments = SFTConfig(
        output_dir=str(_checkpoints(spec)),
        seed=spec.seed,
        per_device_train_batch_size=batch.rows // batch.accumulation,
        per_device_eval_batch_size=batch.rows // batch.accumulation,
        gradient_accumulation_steps=batch.accumulation,
        num_train_epochs=batch.epochs,
        max_steps=_total_steps(recipe, len(rows)),
        learning_rate=optimiser.learning_rate,
        lr_scheduler_type=optimiser.schedule,
        warmup_steps=optimiser.warmup_share,
        weight_decay=optimiser.weight_decay,
        adam_beta2=optimiser.beta2,
        max_grad_norm=optimiser.max_grad_norm,
        optim="adamw_torch_fused" if on_gpu else "adamw_torch",
        bf16=dtype is torch.bfloat16,
        fp16=False,
        use_cpu=not on_gpu,
        gradient_checkpointing=False,
        train_sampling_strategy="sequential" if batch.group_by_length else "random",
        logging_strategy="steps",
        logging_steps=cadence.log_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,  # it would look at every loss, and `_number` reports what is not finite
        save_strategy="steps",
        save_steps=cadence.checkpoint_steps,
        save_total_limit=2,
        eval_strategy="steps" if eval_rows is not None and cadence.eval_steps else "no",
        eval_steps=cadence.eval_steps,
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=4 if on_gpu else 0,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        max_length=None,
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    batches = None
    if on_gpu and batch.tokens is not None:
        lengths = [len(row.input_ids) for row in rows]
        batches = batches_by_tokens(lengths, batch.tokens, processes=world, rank=rank, seed=spec.seed)
        arguments.max_steps = max(1, min(round(len(batches) * batch.epochs), batch.max_steps or sys.maxsize))
    elif batch.group_by_length:
        # Processes of one step get rows of like length too: the step lasts as long as its longest part.
        rows = order_by_length(rows, batch.rows * world, seed=spec.seed)
    trainer = gpu_trainer(batches) if on_gpu else cpu_trainer()
    return trainer(
        model=model,
        args=arguments,
        train_dataset=_as_dataset(rows),
        eval_dataset=_as_dataset(eval_rows) if eval_rows is not None else None,
        processing_class=tokenizer,
        peft_config=lora,
    )


def _total_steps(recipe: Recipe, row_count: int) -> int:
    """Optimiser steps: what the passes give, or `max_steps` where that is fewer."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    per_epoch = -(-row_count // (recipe.batch.rows * world))
    steps = max(1, round(per_epoch * recipe.batch.epochs))
    return min(steps, recipe.batch.max_steps or steps)


def _as_dataset(rows: list[EncodedRow]) -> Any:
    """An Arrow table built from whole arrays: through Python lists, 100 million tokens take minutes and gigabytes."""
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    offsets = pa.array(np.cumsum([0, *(len(row.input_ids) for row in rows)]), type=pa.int64())
    columns = {
        "input_ids": np.concatenate([row.input_ids for row in rows]),
        "labels": np.concatenate([row.labels for row in rows]),
    }
    lists = {name: pa.LargeListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}
    return Dataset(pa.table(lists)).with_format("numpy")


def _build_callback(emit: Callable[[TrainEvent], None], stop: StopRequest) -> Any:
    from transformers import TrainerCallback

    class Reporter(TrainerCallback):  # type: ignore[misc]
        """Turns the trainer's log into events, and a stop request into a checkpoint and an end."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if stop.wanted and state.global_step < state.max_steps:
                control.should_save = True
                control.should_training_stop = True

        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
        ) -> None:
            logs = logs or {}
            if "loss" in logs:
                emit(
                    TrainEvent(
                        event="step",
                        step=state.global_step,
                        total_steps=state.max_steps,
                        epoch=round(float(state.epoch or 0), 4),
                        loss=_number(logs["loss"]),
                        learning_rate=_number(logs.get("learning_rate")),
                        grad_norm=_number(logs.get("grad_norm")),
                        token_accuracy=_number(logs.get("mean_token_accuracy")),
                        tokens=int(logs["num_tokens"]) if "num_tokens" in logs else None,
                    )
                )
            elif "eval_loss" in logs:
                accuracy = _number(logs.get("eval_mean_token_accuracy"))
                loss = _number(logs["eval_loss"])
                emit(TrainEvent(event="eval", step=state.global_step, loss=loss, token_accuracy=accuracy))

        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero:
                (folder / _COMPLETE).touch()
            emit(TrainEvent(event="checkpoint", step=state.global_step, path=str(folder)))

    return Reporter()


def _number(value: Any) -> float | None:
    """A finite number, or None: a diverged loss is reported by its absence, never as NaN in JSON."""
    if value is None:
        return None
    number = float(value)
    return round(number, 8) if math.isfinite(number) else None


def _save_adapter(trainer: Any, output_dir: Path) -> None:
    """Write the adapter in bfloat16 beside its place, then move it there: readers see all of it or nothing."""
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    staging = output_dir.with_name(output_dir.name + ".partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = model.peft_config["default"]
    config.inference_mode = True
    # A path of this machine means nothing elsewhere; the manifest binds the base by digest.
    config.base_model_name_or_path = None
    config.save_pretrained(staging)
    state = get_peft_model_state_dict(model)
    if any(not torch.isfinite(value).all() for value in state.values()):
        raise TsumugiError("Training diverged: the adapter holds values that are no numbers", code="training_diverged")
    tensors = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in state.items()}
    save_file(tensors, staging / "adapter_model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(output_dir, ignore_errors=True)
    for path in staging.iterdir():
        path.chmod(0o644)
    staging.rename(output_dir)


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
        try:
            return train(load_spec(Path(arguments[0])), emit, stop)
        except TsumugiError as error:
            emit(TrainEvent(event="error", code=error.code, detail=error.detail))
            return (
                EXIT_USAGE if isinstance(error, DatasetRejected) or error.code == "invalid_train_spec" else EXIT_FAILED
            )


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
