"""The chat template as training sees it, and the audit that it is the one serving renders.

Serving feeds what `ChatFormat.render` gives and stops at the token that the template ends an answer with. Training
takes that very string as the prompt and appends completion and end-of-turn token. Both are compared with the template's
own rendering of the whole conversation, so a template that trims, reorders or adds is found before a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import DatasetRejected
from generation.chat import ChatFormat
from tuning.spec import TrainMessage


def load_tokenizer(base_path: Path) -> Any:
    """The base's tokenizer as TRL may use it: it renders what serving renders, and its end of text ends an answer.

    Raises:
        Unavailable: `generator_misconfigured`: the base has no chat template that can be used.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base_path)
    chat = ChatFormat.of(tokenizer, base_path.name)
    tokenizer.chat_template = chat.template
    if chat.stop_id is not None:
        # Llama 3 ends a text with one token and a turn with another; trainers know the former alone.
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(chat.stop_id)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _padding(tokenizer, chat)
    return tokenizer


def _padding(tokenizer: Any, chat: ChatFormat) -> str:
    """A token to fill rows up with where the base names none: any that never ends an answer, as padding has no loss."""
    others = (token for token in tokenizer.all_special_tokens if tokenizer.convert_tokens_to_ids(token) != chat.stop_id)
    return str(next(others, tokenizer.eos_token))


class TrainingTemplate:
    """Renders conversations with a tokenizer's chat template. The tokenizer is a transformers one."""

    def __init__(self, tokenizer: Any) -> None:
        """Read the template.

        Raises:
            DatasetRejected: `template_missing`; `stop_token_missing`: the template ends an answer with no token of its
                own, so the model would never learn to stop.
            Unavailable: `generator_misconfigured`: the template cannot be used.
        """
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise DatasetRejected("The base model's tokenizer has no chat template", code="template_missing")
        self.chat = ChatFormat.of(tokenizer)
        if self.chat.stop_id is None:
            raise DatasetRejected(
                "The chat template ends an assistant's turn with no token of its own", code="stop_token_missing"
            )
        self.stop_id: int = self.chat.stop_id
        self.stop_token: str = str(tokenizer.convert_ids_to_tokens(self.stop_id))

    def prompt_text(self, prompt: Sequence[TrainMessage]) -> str:
        """What serving feeds the model for these messages."""
        return self.chat.render(prompt)

    def completion_text(self, completion: str) -> str:
        """An answer as the model is to write it: white space around it is the template's."""
        return self.chat.lead + completion.strip()

    def audit_rendering(self, prompt: Sequence[TrainMessage], completion: str) -> None:
        """Check that prompt, completion and stop token put together are what the template renders.

        Raises:
            DatasetRejected: they are not (`template_skew`), or the template ends this turn with another token
                (`stop_token_missing`).
        """
        start, said = self.prompt_text(prompt), self.completion_text(completion)
        whole = self.chat.render_whole([*prompt, TrainMessage(role="assistant", content=completion.strip())])
        served = self.tokenizer.backend_tokenizer.encode(start, add_special_tokens=False).ids
        if self.tokenizer(start, add_special_tokens=False)["input_ids"] != served:
            raise DatasetRejected(
                "The tokenizer gives other tokens in training than in serving for the same prompt", code="template_skew"
            )
        before = self.chat.without_thought(start)
        start = start if whole.startswith(start + said) else before
        if not whole.startswith(start + said):
            raise DatasetRejected(
                "The chat template renders a conversation differently from prompt plus completion: the model would be "
                f"trained on {whole[-200:]!r} but served {start[-200:]!r}",
                code="template_skew",
            )
        if not whole[len(start) + len(said) :].startswith(self.stop_token):
            raise DatasetRejected(
                f"The chat template does not end the assistant's turn with {self.stop_token!r}",
                code="stop_token_missing",
            )
