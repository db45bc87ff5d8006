"""A base that cannot be asked is refused at the start, not at the first answer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from core.errors import Unavailable
from core.settings import GenerationSettings, Settings
from generation.build import build_base, remote_base
from generation.models import BaseModelInfo, write_card
from tests.tiny_llama import TEMPLATE


@pytest.mark.parametrize("start", [build_base, remote_base])
def test_a_base_without_a_chat_template_is_refused_before_it_is_loaded(tmp_path: Path, start: object) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    settings = Settings(data_dir=tmp_path, generation=GenerationSettings(base_folder=tmp_path))
    assert callable(start)
    write_card(BaseModelInfo(tmp_path, "plain", "a" * 64, "b" * 64, hashlib.sha256(TEMPLATE.encode()).hexdigest()))
    assert start(settings).name == "plain"
    write_card(BaseModelInfo(tmp_path, "plain", "a" * 64, "b" * 64, hashlib.sha256(b"").hexdigest()))
    with pytest.raises(Unavailable, match="no chat template") as refused:
        start(settings)
    assert refused.value.code == "generator_misconfigured" and not refused.value.retryable
