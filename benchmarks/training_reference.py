"""The reference of the training benchmark: TRL's SFTTrainer with its own defaults, as its documentation starts it.

    python -m benchmarks.training_reference ORDER.json

Only what makes two runs comparable is given: rows, LoRA shape, learning rate, number of steps, seed, and no length
limit (it would cut what we train on). Prints one JSON line at the start and one at each log.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """The process; see the module."""
    stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; events must stay alone on stdout
    from datasets import load_dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    order: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text("utf-8"))

    def tell(**event: Any) -> None:
        stream.write(json.dumps(event) + "\n")
        stream.flush()

    class Teller(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_more: Any) -> None:
            if logs and "loss" in logs:
                tell(event="step", step=state.global_step, loss=logs["loss"], tokens=logs["num_tokens"])

    rank = order["rank"]
    trainer = SFTTrainer(
        model=order["base"],
        args=SFTConfig(
            output_dir=order["out"], max_length=None, report_to="none", disable_tqdm=True, save_strategy="no",
            **order["arguments"],
        ),
        train_dataset=load_dataset("json", data_files=order["rows"], split="train"),
        peft_config=LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[Teller()],
    )  # fmt: skip
    labels = trainer.train_dataset["labels"]
    supervised = sum(1 for row in labels for label in row if label != -100)
    tell(event="start", rows=len(labels), supervised_tokens=supervised)
    trainer.train()


if __name__ == "__main__":
    main()
