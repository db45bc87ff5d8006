"""Whether a base can be asked: its chat template is there and shows the model what it is given. Seen at a start."""

from __future__ import annotations

import hashlib
from typing import Any

from core.errors import Unavailable
from generation.models import BaseModelInfo

_NO_TEMPLATE = hashlib.sha256(b"").hexdigest()
"""`models.template_digest` of a tokenizer without one."""
_TURNS = (("system", "tsumugi-a"), ("user", "tsumugi-b"), ("assistant", "tsumugi-c"), ("user", "tsumugi-d"))
"""The turns of a conversation that goes on, as `prompt.render_grounded` makes them."""


def require_template(base: BaseModelInfo) -> BaseModelInfo:
    """The base, if its tokenizer has a chat template.

    Raises:
        Unavailable: `generator_misconfigured`.
    """
    if base.template_digest == _NO_TEMPLATE:
        raise _misconfigured(
            f"the model '{base.name}' in {base.path} has no chat template, so it cannot be asked: take its instruct"
            " or chat variant, or put a `chat_template.jinja` into the folder"
        )
    return base


def require_rendering(tokenizer: Any, name: str) -> None:
    """Raise Unavailable (`generator_misconfigured`) unless the chat template renders every turn of a conversation."""
    from jinja2 import TemplateError

    chat = [{"role": role, "content": content} for role, content in _TURNS]
    try:
        text = str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise _misconfigured(f"the chat template of '{name}' cannot render a conversation: {error}") from error
    lost = [role for role, content in _TURNS if content not in text]
    if lost:
        raise _misconfigured(
            f"the chat template of '{name}' leaves out turns of the {' and the '.join(dict.fromkeys(lost))}"
        )


def _misconfigured(detail: str) -> Unavailable:
    return Unavailable(detail, code="generator_misconfigured", retryable=False)
