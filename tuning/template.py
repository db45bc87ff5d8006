"""The chat template as training sees it, and the audit that it is the one serving renders.

Serving calls `apply_chat_template(messages, add_generation_prompt=True)` and stops at the end-of-turn token. Training
takes that very string as the prompt and appends completion and end-of-turn token. Both are compared with the
template's own rendering of the whole conversation, so a template that trims, reorders or adds is found before a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.errors import DatasetRejected
from tuning.spec import TrainMessage


class TrainingTemplate:
    """Renders conversations with a tokenizer's chat template. The tokenizer is a transformers one."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise DatasetRejected("The base model's tokenizer has no chat template", code="template_missing")
        self.stop_id: int = int(tokenizer.eos_token_id)
        self.stop_token: str = str(tokenizer.eos_token)

    def prompt_text(self, prompt: Sequence[TrainMessage]) -> str:
        """What serving feeds the model for these messages."""
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return str(text)

    def audit_rendering(self, prompt: Sequence[TrainMessage], completion: str) -> None:
        """Check that prompt, completion and stop token put together are what the template renders.

        Raises:
            DatasetRejected: they are not (`template_skew`), or the template does not end a turn with the tokenizer's
                end-of-sequence token, so the model would never learn to stop (`stop_token_missing`).
        """
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
        messages.append({"role": "assistant", "content": completion})
        whole = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        start = self.prompt_text(prompt)
        served = self.tokenizer.backend_tokenizer.encode(start, add_special_tokens=False).ids
        if self.tokenizer(start, add_special_tokens=False)["input_ids"] != served:
            raise DatasetRejected(
                "The tokenizer gives other tokens in training than in serving for the same prompt", code="template_skew"
            )
        if not whole.startswith(start + completion):
            raise DatasetRejected(
                "The chat template renders a conversation differently from prompt plus completion: the model would be "
                f"trained on {whole[-200:]!r} but served {start[-200:]!r}",
                code="template_skew",
            )
        if not whole[len(start) + len(completion) :].startswith(self.stop_token):
            raise DatasetRejected(
                f"The chat template does not end the assistant's turn with {self.stop_token!r}",
                code="stop_token_missing",
            )
