"""What our trainers take from TRL and transformers that is no public interface: a release that moves it must fail here.

`pyproject.toml` bounds TRL above for the same reason; raise the bound together with these.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

TRAINERS = (
    "SFTTrainer",
    "DPOTrainer",
    "KTOTrainer",
    "RewardTrainer",
    "GRPOTrainer",
    "RLOOTrainer",
    "DistillationTrainer",
)


def trainer(name: str) -> type:
    import trl
    from trl.experimental.orpo import ORPOTrainer

    return ORPOTrainer if name == "ORPOTrainer" else getattr(trl, name)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "method", "parameters"),
    [
        ("SFTTrainer", "compute_loss", ["self", "model", "inputs", "return_outputs", "num_items_in_batch"]),
        ("SFTTrainer", "get_train_dataloader", ["self"]),
        ("SFTTrainer", "_prepare_inputs", ["self", "inputs"]),
        ("DPOTrainer", "_prepare_dataset", None),
        ("KTOTrainer", "_prepare_dataset", None),
        ("KTOTrainer", "_get_train_sampler", ["self", "train_dataset"]),
        ("ORPOTrainer", "tokenize_row", ["self", "feature", "model"]),
        ("SFTTrainer", "log", ["self", "logs", "start_time"]),
        ("SFTTrainer", "floating_point_ops", ["self", "inputs"]),
    ],
)
def test_what_we_override_is_there_and_takes_what_we_take(name: str, method: str, parameters: list[str] | None) -> None:
    found = inspect.signature(getattr(trainer(name), method))
    assert parameters is None or list(found.parameters) == parameters


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SFTTrainer", "self._total_train_tokens"),
        ("SFTTrainer", 'self._metrics[mode]["mean_token_accuracy"]'),
        ("SFTTrainer", "skip_prepare_dataset"),
        ("SFTTrainer", "fused_lm_head"),
        ("DPOTrainer", '"prompt_ids"'),
        ("DPOTrainer", '"chosen_ids"'),
        ("DPOTrainer", '"rejected_ids"'),
        ("RewardTrainer", '"chosen_ids"'),
        ("KTOTrainer", "KL_completion_ids"),
        ("GRPOTrainer", "reward_weights"),
        ("RLOOTrainer", "reward_weights"),
    ],
)
def test_the_columns_and_counts_that_we_fill_are_read(name: str, text: str) -> None:
    source = Path(inspect.getfile(trainer(name))).read_text("utf-8")
    assert text in source


def test_every_trainer_is_where_we_import_it_from() -> None:
    assert all(inspect.isclass(trainer(name)) for name in (*TRAINERS, "ORPOTrainer"))


def test_trl_is_bounded_above_by_the_next_release() -> None:
    major, minor = version("trl").split(".")[:2]
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text("utf-8")
    assert f'"trl>={major}.{minor},<{major}.{int(minor) + 1}"' in project
