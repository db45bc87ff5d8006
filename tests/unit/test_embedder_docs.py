"""The examples of docs/embedders.md are settings that load, and that an index version keeps."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from core.settings import Settings
from retrieval.build import config_of, same_index, settings_with

TEXT = (Path(__file__).parents[2] / "docs" / "embedders.md").read_text("utf-8")
BLOCKS = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_examples_load_and_survive_in_an_index_version(block: str, tmp_path: Path, settings: Settings) -> None:
    loaded = Settings(data_dir=tmp_path, **tomllib.loads(block))
    for section, values in tomllib.loads(block).items():
        for name, value in values.items():
            found = getattr(getattr(loaded, section), name)
            assert str(found) == str(value) or list(found) == value, name
    kept = config_of(loaded)
    assert same_index(loaded, kept) and not same_index(settings, kept)
    assert config_of(settings_with(settings, kept)) == kept
    assert "api_key" not in kept["embedding"]


def test_there_is_an_example_of_each_embedder() -> None:
    assert {tomllib.loads(block)["retrieval"]["embedder"] for block in BLOCKS} == {
        "bge-m3",
        "sentence-transformers",
        "endpoint",
    }
