"""The part of OpenAI's chat completions that means something here. Unknown members are ignored, as clients expect;
known ones that this service cannot honour are refused rather than silently dropped.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas.base import refuse_bad_text
from core.errors import FieldError, InvalidInput
from core.types import Message


class TextPart(BaseModel):
    """One part of a message."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """A turn."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None

    def text(self, position: int) -> str:
        """Text of the turn.

        Raises:
            InvalidInput: `unsupported_content`, for images, audio and files.
        """
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        for part in self.content:
            if part.type != "text" or part.text is None:
                detail = f"content of type '{part.type}' is not understood; send text"
                field = FieldError(f"messages.{position}.content", detail, "unsupported_content")
                raise InvalidInput(detail, code="unsupported_content", errors=[field])
        return "\n".join(part.text or "" for part in self.content)


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class ChatBody(BaseModel):
    """A chat request. `collection` and `conversation_id` are ours; OpenAI's client sends them through `extra_body`."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(min_length=1, max_length=200)
    messages: list[ChatMessage] = Field(min_length=1, max_length=500)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=32_768)
    max_completion_tokens: int | None = Field(None, ge=1, le=32_768)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    stop: str | list[str] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    examples: int = Field(0, ge=0, le=8)
    reasoning: bool = False
    best_of: int = Field(1, ge=1, le=8)
    n: int | None = None
    collection: str | None = Field(None, min_length=1, max_length=100)
    conversation_id: str | None = Field(None, min_length=1, max_length=100)
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)

    @model_validator(mode="before")
    @classmethod
    def _refuse_bad_text(cls, value: Any) -> Any:
        refuse_bad_text(value)
        return value

    @property
    def asker(self) -> str | None:
        """Whoever asks, as the client calls them; OpenAI put `safety_identifier` in the place of `user`."""
        return self.safety_identifier or self.user or None

    def refuse_unsupported(self) -> None:
        """Refuse what would change the answer if it were honoured.

        Raises:
            InvalidInput: `unsupported_parameter`.
        """
        extra = self.model_extra or {}
        asked = [
            name for name in ("tools", "functions", "audio", "prediction", "web_search_options") if extra.get(name)
        ]
        if self.n not in {None, 1}:
            asked.append("n")
        if extra.get("logprobs"):
            asked.append("logprobs")
        if extra.get("modalities") not in (None, ["text"]):
            asked.append("modalities")
        if asked:
            detail = f"not supported here: {', '.join(asked)}"
            errors = [FieldError(name, "not supported", "unsupported_parameter") for name in asked]
            raise InvalidInput(detail, code="unsupported_parameter", errors=errors)

    def split(self) -> tuple[str, tuple[Message, ...]]:
        """The question (the last turn, which must be the user's) and the turns before it.

        System turns are left out: the prompt of this service is fixed, because adapters are trained and gated on it.

        Raises:
            InvalidInput: `unsupported_content`, or the last turn is not the user's.
        """
        texts = [(turn.role, turn.text(position)) for position, turn in enumerate(self.messages)]
        role, question = texts[-1]
        if role != "user":
            detail = "the last message must be the user's"
            raise InvalidInput(detail, code="invalid_request", errors=[FieldError("messages", detail)])
        history = tuple(Message(turn, text) for turn, text in texts[:-1] if turn in {"user", "assistant"} and text)
        return question, history

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Stop texts, empty ones dropped."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in given if text)
