"""A base that cannot be asked is refused at the start, not at the first answer."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from core.errors import Unavailable
from core.settings import GenerationSettings, Settings
from generation.build import build_base, remote_base
from generation.models import BaseModelInfo, write_card
from generation.template import require_rendering
from tests.tiny_llama import TEMPLATE, tiny_tokenizer


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


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (None, "cannot render"),
        ("{{ raise_exception('System role not supported') }}", "System role not supported"),
        ("{{ messages[9].content }}", "cannot render"),
        ("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}", "the system"),
        ("{{ messages[-1].content }}", "the system and the user and the assistant"),
    ],
)
def test_a_template_that_loses_a_turn_is_refused(template: str | None, reason: str) -> None:
    tokenizer = tiny_tokenizer()
    require_rendering(tokenizer, "tiny")
    tokenizer.chat_template = template
    with pytest.raises(Unavailable, match=reason) as refused:
        require_rendering(tokenizer, "tiny")
    assert refused.value.code == "generator_misconfigured"
