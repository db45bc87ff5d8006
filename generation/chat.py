"""How a model family takes turns, read from its tokenizer and its chat template and not from a list of families.

Serving, training, rewards and evaluation render through this one class, so what is trained is what is served: a system
message where the template has a place for one and in front of the first question where it has none, no token of the
template's own in any content, no thinking before an answer, and the token that the template ends a turn with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.errors import Unavailable
from core.types import Message
from generation.control_marks import control_pattern, written_marks
from generation.engines.text import ThoughtFilter

Turn = dict[str, str]

_SYSTEM, _ASKED, _SAID, _AGAIN = "tsumugi-a", "tsumugi-b", "tsumugi-c", "tsumugi-d"
_TURNS = (("user", _ASKED), ("assistant", _SAID), ("user", _AGAIN))
"""The turns of a conversation that goes on, as `prompt.render_grounded` makes them behind its system message."""
_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which published templates turn thinking off: Qwen3's and DeepSeek-V3.1's."""
_THOUGHTS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"))
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that a tokenizer finds before it splits text. normalised: it is looked for in the normalised text."""

    text: str
    special: bool
    normalised: bool


class ChatFormat:
    """One base's turns. Thread-safe: nothing changes after it was made."""

    def __init__(
        self, name: str, source: str, variables: Mapping[str, Any], backend: Any, added: Mapping[int, AddedToken]
    ) -> None:
        """Try the template on a conversation.

        name: of the base, for messages. source: of the template. variables: `bos_token` and what else the template is
        given. backend: a tokenizer of the package `tokenizers`. added: by token id.

        Raises:
            Unavailable: `generator_misconfigured`: the template cannot be used; the message says why.
        """
        self.name = name
        self.template = source
        self.switches = dict.fromkeys((one for one in _SWITCHES if one in source), False)
        """Variables of the template that keep an answer from beginning with thoughts."""
        self._variables = dict(variables)
        self._backend = backend
        self.thoughts = _thoughts_of(source, added.values())
        """What opens and closes a family's thoughts, None where it has none."""
        self._special_thoughts = {
            number: token.text
            for number, token in added.items()
            if token.special and token.text in (self.thoughts or ())
        }
        with_system = self._sample([("system", _SYSTEM), *_TURNS])
        self.folds_system: Literal["first", "last"] | None = None
        """Before which question a system message stands where the template has no turn for it."""
        if isinstance(with_system, str) or _SYSTEM not in with_system.text:
            self.folds_system = "first"
        elif with_system.text.index(_SYSTEM) > with_system.text.find(_SAID):
            self.folds_system = "last"  # Mistral's, which leaves it out where no question is the last turn
        sample = self._sample(_TURNS) if self.folds_system else with_system
        if isinstance(sample, str):
            raise _misconfigured(f"the chat template of '{name}' cannot render a conversation: {sample}")
        sample.check(name)
        self.opens_thought = self.thoughts is not None and sample.text.rstrip().endswith(self.thoughts[0])
        """Whether the published template makes every answer begin inside a thought."""
        if self.opens_thought and self.thoughts is not None:
            closing = f"{{% if add_generation_prompt %}}{{{{ '\\n{self.thoughts[1]}\\n\\n' }}}}{{% endif %}}"
            self.template = source.removesuffix("\n") + closing
        start, whole = self._start(), self._whole()
        self.lead = self._lead(start, whole)
        """White space that the template puts before an answer and not at the end of a prompt."""
        self.stop_id = self._stop(whole, added)
        """The token that the template ends an answer with; None where it is none of the tokenizer's added ones."""
        marks = {token.text for token in added.values() if token.special} | written_marks(source, sample.literals())
        marks |= {token.text for token in added.values() if token.text in source}
        self._marks = control_pattern(marks)
        self._control_ids = frozenset(
            token_id for token_id, token in added.items() if token.normalised and token.text in marks
        )

    @classmethod
    def of(cls, tokenizer: Any, name: str = "the base") -> ChatFormat:
        """Of a tokenizer of transformers.

        Raises:
            Unavailable: see above; also where it has no template.
        """
        added = {
            int(token_id): AddedToken(str(token.content), bool(token.special), bool(token.normalized))
            for token_id, token in tokenizer.added_tokens_decoder.items()
        }
        named = {str(value) for value in tokenizer.all_special_tokens}
        for token_id in tokenizer.all_special_ids:
            if token_id not in added:  # one of the vocabulary that the configuration names
                text = str(tokenizer.convert_ids_to_tokens(int(token_id)))
                if text in named:
                    added[int(token_id)] = AddedToken(text, special=True, normalised=False)
        return cls(
            name, template_source(tokenizer, name), tokenizer.special_tokens_map, tokenizer.backend_tokenizer, added
        )

    @classmethod
    def of_folder(cls, folder: Path, name: str) -> ChatFormat:
        """Of a model's folder, without importing torch: for a process whose answers are made elsewhere.

        Raises:
            Unavailable: see above; also where files are missing.
        """
        from tokenizers import Tokenizer

        try:
            backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
            config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
            file = folder / "chat_template.jinja"
            source = file.read_text("utf-8") if file.is_file() else config.get("chat_template")
        except Exception as error:  # tokenizers raises bare Exception
            raise _misconfigured(f"the tokenizer in {folder} cannot be read: {error}") from error
        if isinstance(source, list):  # several by name, as Command R has them
            source = next((one["template"] for one in source if one.get("name") == "default"), None)
        if not source:
            raise no_template(name)
        found = backend.get_added_tokens_decoder()
        added = {
            number: AddedToken(token.content, token.special, bool(token.normalized)) for number, token in found.items()
        }
        variables = {key: _text_of(value) for key, value in config.items() if key.endswith("_token")}
        return cls(name, source, {key: value for key, value in variables.items() if value}, backend, added)

    def turns(self, messages: Iterable[Message | Any]) -> list[Turn]:
        """Messages as the template takes them, oldest first, of roles that it knows: `role` and `content` of each.

        A system message without a place of its own goes before a question, neighbours of one role are joined, and
        answers before the first question are left out: templates refuse both. Contents lose the power of the template's
        tokens.
        """
        found: list[Turn] = []
        system: list[str] = []
        for message in messages:
            role, content = _read(message)
            content = self.harmless(content)
            if role == "system" and (self.folds_system or found):
                system.append(content)
            elif role == "assistant" and not any(turn["role"] == "user" for turn in found):
                continue
            elif found and found[-1]["role"] == role:
                found[-1]["content"] += f"\n\n{content}"
            else:
                found.append({"role": role, "content": content})
        if system:
            questions = [turn for turn in found if turn["role"] == "user"]
            if not questions:
                found.append({"role": "user", "content": "\n\n".join(system)})
            else:
                place = questions[-1 if self.folds_system == "last" else 0]
                place["content"] = "\n\n".join([*system, place["content"]])
        return found

    def render(self, messages: Iterable[Message | Any]) -> str:
        """The prompt's text, up to where an answer begins.

        Raises:
            Unavailable: `generator_misconfigured`: the template refuses these turns.
        """
        return self._render(self.turns(messages), prompt=True)

    def render_whole(self, messages: Iterable[Message | Any]) -> str:
        """A conversation that ends with an answer, as the template writes it.

        Raises:
            Unavailable: see `render`.
        """
        return self._render(self.turns(messages), prompt=False)

    def encode(self, messages: Iterable[Message | Any]) -> list[int]:
        """Token ids of the prompt."""
        # The backend, not the wrapper: the wrapper sets padding on the shared object, which is not thread-safe.
        return list(self._backend.encode(self.render(messages), add_special_tokens=False).ids)

    def harmless(self, content: str) -> str:
        """A content in which no token of the template opens: spelt out, it is read as the text that it is."""
        content = self._marks.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", content)
        if not self._control_ids:
            return content
        for _ in range(3):  # a spelling that only the normalised text shows
            encoded = self._backend.encode(content, add_special_tokens=False)
            spans = [span for one, span in zip(encoded.ids, encoded.offsets, strict=True) if one in self._control_ids]
            if not spans:
                break
            for start, _end in reversed(spans):
                content = f"{content[: start + 1]} {content[start + 1 :]}"
        return content

    def holds_control(self, content: str) -> bool:
        """Whether a text holds a token of the template."""
        return self.harmless(content) != content

    def thought_filter(self) -> ThoughtFilter | None:
        """What leaves out thoughts of one answer to a prompt of `encode`; None where the family has none."""
        return None if self.thoughts is None else ThoughtFilter(self.thoughts, inside=False, anywhere=True)

    def without_thought(self, prompt: str) -> str:
        """A prompt of `render` without the empty thought at its end, which some templates leave out of history."""
        if self.thoughts is None:
            return prompt
        before, mark, after = prompt.rpartition(self.thoughts[0])
        return before if mark and after.strip() == self.thoughts[1] else prompt

    def visible(self, text: str) -> str:
        """A whole answer without its thoughts."""
        thoughts = self.thought_filter()
        return text if thoughts is None else thoughts.push(text) + thoughts.finish()

    def decode(self, tokenizer: Any, ids: Sequence[int]) -> str:
        """Text of token ids without special tokens, but with the marks of thoughts, by a tokenizer of transformers."""
        parts: list[list[int]] = [[]]
        for one in map(int, ids):
            if one in self._special_thoughts:
                parts += [[one], []]
            else:
                parts[-1].append(one)
        return "".join(
            self._special_thoughts[part[0]] if part[0] in self._special_thoughts
            else str(tokenizer.decode(part, skip_special_tokens=True))
            for part in parts if part
        )  # fmt: skip

    def _render(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            return self._apply(turns, prompt=prompt)
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise _misconfigured(f"the chat template of '{self.name}' refuses a conversation: {error}") from error

    def _apply(self, turns: Sequence[Turn], *, prompt: bool) -> str:
        from transformers.utils.chat_template_utils import render_jinja_template

        rendered, _ = render_jinja_template(
            conversations=[list(turns)],
            chat_template=self.template,
            add_generation_prompt=prompt,
            **self._variables,
            **self.switches,
        )
        return str(rendered[0])

    def _sample(self, turns: Sequence[tuple[str, str]]) -> _Sample | str:
        """The rendered conversation, or why there is none."""
        from jinja2 import TemplateError

        chat = [{"role": role, "content": content} for role, content in turns]
        try:
            return _Sample(self._apply(chat, prompt=True))
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            return str(error)

    def _start(self) -> str:
        return self._render([{"role": "user", "content": _ASKED}], prompt=True)

    def _whole(self) -> str:
        return self._render(
            [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _SAID}], prompt=False
        )

    def _lead(self, start: str, whole: str) -> str:
        lead = whole[len(start) : whole.find(_SAID)] if whole.startswith(start) else ""
        return lead if lead.isspace() else ""

    def _stop(self, whole: str, added: Mapping[int, AddedToken]) -> int | None:
        """The first added token behind an answer."""
        tail = whole[whole.rfind(_SAID) + len(_SAID) :]
        ids = self._backend.encode(tail, add_special_tokens=False).ids if tail else []
        return next((int(one) for one in ids if one in added), None)


class _Sample:
    """The conversation above, rendered, behind a system message where the template has a turn for it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def check(self, name: str) -> None:
        """Refuse a template that shows a model less than it is given, or not who said what."""
        lost = [role for role, content in _TURNS if self.text.count(content) != 1]
        if lost:
            raise _misconfigured(
                f"the chat template of '{name}' leaves out or repeats turns of the"
                f" {' and the '.join(dict.fromkeys(lost))}"
            )
        places = [self.text.index(content) for _, content in _TURNS]
        if places != sorted(places):
            raise _misconfigured(f"the chat template of '{name}' changes the order of turns")
        before_said = self.text[places[0] + len(_ASKED) : places[1]]
        before_again = self.text[places[1] + len(_SAID) : places[2]]
        if before_said.strip() == before_again.strip():
            raise _misconfigured(f"the chat template of '{name}' does not tell who is speaking")

    def literals(self) -> list[str]:
        """What the template wrote around the contents."""
        return re.split("tsumugi-[abcd]", self.text)


def template_source(tokenizer: Any, name: str = "the base") -> str:
    """The chat template that a tokenizer of transformers renders with; that named `default` where it has several.

    Raises:
        Unavailable: `generator_misconfigured`: there is none.
    """
    found = tokenizer.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    if not found:
        raise no_template(name)
    return str(found)


def no_template(name: str) -> Unavailable:
    """The error for a base that cannot be asked."""
    return _misconfigured(
        f"the model '{name}' has no chat template, so it cannot be asked: take its instruct or chat variant, or put a"
        " `chat_template.jinja` into the folder"
    )


def _thoughts_of(source: str, added: Iterable[AddedToken]) -> tuple[str, str] | None:
    known = {token.text for token in added}
    return next((pair for pair in _THOUGHTS if pair[1] in source or pair[1] in known), None)


def _read(message: Message | Any) -> tuple[str, str]:
    role, content = (
        (message["role"], message["content"]) if isinstance(message, Mapping) else (message.role, message.content)
    )
    if role not in _ROLES:
        raise ValueError(f"no turn of the role '{role}' is rendered")
    return str(role), str(content)


def _text_of(value: Any) -> str | None:
    """A special token of `tokenizer_config.json`: plain text, or an object that has it."""
    return str(value["content"]) if isinstance(value, dict) else value if isinstance(value, str) else None


def _misconfigured(detail: str) -> Unavailable:
    return Unavailable(detail, code="generator_misconfigured", retryable=False)
