"""Whether a base can be asked at all, seen at a start from its card alone; `chat.ChatFormat` tries the template."""

from __future__ import annotations

import hashlib

from generation.chat import no_template
from generation.models import BaseModelInfo

_NO_TEMPLATE = hashlib.sha256(b"").hexdigest()
"""`models.template_digest` of a tokenizer without one."""


def require_template(base: BaseModelInfo) -> BaseModelInfo:
    """The base, if its tokenizer has a chat template.

    Raises:
        Unavailable: `generator_misconfigured`.
    """
    if base.template_digest == _NO_TEMPLATE:
        raise no_template(base.name)
    return base
