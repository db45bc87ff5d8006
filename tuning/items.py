"""What an evaluation asks, and what came back: the plain values between preparation, evaluation and gate."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tuning.spec import TrainMessage

BASE = "base"
CANDIDATE = "candidate"
CHAMPION = "champion"
FEW_SHOT = "few_shot"
"""The base, shown some of the house's own rows in its prompt: what tuning must be worth more than."""


class EvaluationItem(BaseModel):
    """One prompt and everything an answer to it is judged by. What is None or empty is not judged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    source: Literal["held_out", "refused", "document", "probe", "train", "neutral"]
    prompt: tuple[TrainMessage, ...] = Field(min_length=1)
    reference: str | None = Field(None, description="The answer as the house writes it: judged for style.")
    expected: tuple[tuple[str, ...], ...] = Field((), description="Facts, all of them; of each, any of its wordings.")
    gold: tuple[int, ...] = Field((), description="Passages that hold them, by number.")
    unanswerable: bool = Field(False, description="The passages do not say: refusing is right.")
    conflict: bool = Field(False, description="The passages contradict the training data: they must be believed.")
    leak: bool = Field(False, description="Asked without passages: giving the expected facts is wrong.")
    few_shot: tuple[TrainMessage, ...] = Field((), description="The prompt with examples of the house before it.")
    raw: bool = Field(False, description="`reference` is plain text that is read as it stands, without the template.")


class SystemOutput(BaseModel):
    """What one system said to one item."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = Field(None, description="Greedy answer; None where the item is only read.")
    finished: bool | None = Field(None, description="Ended by itself, not cut at the length limit.")
    nll: float | None = Field(None, description="Mean negative log-likelihood per token of the reference, in nats.")


class Evaluation(BaseModel):
    """Outputs of all systems, by system and item id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    systems: dict[str, dict[str, SystemOutput]]
    max_new_tokens: int
    device: str
    precision: str
    seconds: float


class EvaluateSpec(BaseModel):
    """What an evaluation process is told (one JSON file)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_path: Path
    items_path: Path = Field(description="JSONL of EvaluationItem; those with a text to write and those only read.")
    adapters: dict[str, Path] = Field(description="Adapter folder by system name; the base needs none.")
    result_path: Path = Field(description="Where the Evaluation goes; appears whole or not at all.")
    fingerprint_path: Path | None = Field(None, description="Where the candidate's fingerprint goes.")
    known_path: Path | None = Field(None, description="What this base said to shipped questions before; kept there.")
    read_only: tuple[str, ...] = Field((), description="Ids of items whose reference is read and nothing generated.")
    max_new_tokens: int = Field(48, ge=1)
    batch: int = Field(8, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = Field(None, ge=1)


def write_lines(path: Path, values: Iterable[BaseModel]) -> None:
    """Write models as JSON lines, in one step."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value.model_dump(mode="json"), ensure_ascii=False) + "\n")
    temporary.replace(path)


def read_items(path: Path) -> list[EvaluationItem]:
    """Read items, order kept."""
    with path.open(encoding="utf-8") as lines:
        return [EvaluationItem.model_validate_json(line) for line in lines if line.strip()]
