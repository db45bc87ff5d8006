"""JSON grammars for the in-process decode loop: which token may come next, by llguidance (MIT, Rust, no torch).

A mask costs about 50 microseconds for the 49,152 tokens of the embedded model, which is less than a hundredth of its
decode step. A grammar that becomes too costly ends its own row with an error; the limits below are llguidance's fuel,
not seconds, so that a schema is refused or taken alike on every machine.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from core.errors import InvalidInput
from core.types import AnswerFormat

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_COMPILED_KEPT: Final = 32
_BITS: Final = torch.arange(32, dtype=torch.int32)
_OPTIONS: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False}
"""One way to write each value: a small model would otherwise spend its tokens on white space."""


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What the grammars of one tokenizer share."""

    size: int
    stop_ids: tuple[int, ...]
    quote: int
    inside_string: int
    """A token that is allowed only inside a string of the answer: `~`."""
    closers: tuple[int, ...]
    """Tokens `]`, `}` and `"`, which end what is open outside a string."""
    glued: torch.Tensor
    """bool (size,): tokens with something behind a quote, such as `");`."""


class TokenGrammar:
    """The state of one generation; not thread-safe. `mask` before each choice, `accept` after it."""

    def __init__(self, matcher: LLMatcher, vocabulary: _Vocabulary) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._words = torch.empty((vocabulary.size + 31) // 32, dtype=torch.int32)

    def mask(self, logits: torch.Tensor) -> None:
        """Set the logits (vocabulary,) of tokens that cannot come next to minus infinity, in place.

        A model that wants to end its answer where the grammar cannot ends the open value instead: models are tuned to
        stop after a sentence, not to close its quotes, and would go on with nonsense up to the token limit.

        Raises:
            InvalidInput: `schema_too_complex`, when the grammar needs more steps than one token may cost.
        """
        self._matcher.unsafe_compute_mask_ptr(self._words.data_ptr(), self._words.numel() * 4)
        if self._matcher.is_error():
            detail = self._matcher.get_error().splitlines()[0][:200]
            raise InvalidInput(f"the schema cannot be followed: {detail}", code="schema_too_complex")
        allowed = ((self._words[:, None] >> _BITS) & 1).view(-1).bool()[: logits.shape[0]]
        if not bool(allowed[self._vocabulary.inside_string]):
            # Where a string opens, `");` would open it with a bracket that the model meant for another language.
            plain = allowed & ~self._vocabulary.glued[: allowed.shape[0]]
            allowed = plain if bool(plain.any()) else allowed
        closing = self._closing(allowed, int(logits.argmax()))
        if closing is not None:
            allowed = torch.zeros_like(allowed)
            allowed[closing] = True
        if logits.shape[0] > allowed.shape[0]:  # rows of padding behind the vocabulary
            logits[allowed.shape[0] :] = float("-inf")
        logits[: allowed.shape[0]].masked_fill_(~allowed.to(logits.device), float("-inf"))

    def _closing(self, allowed: torch.Tensor, wanted: int) -> int | None:
        known = self._vocabulary
        if wanted not in known.stop_ids or any(bool(allowed[token]) for token in known.stop_ids):
            return None
        order = (known.quote,) if bool(allowed[known.inside_string]) else known.closers
        return next((token for token in order if bool(allowed[token])), None)

    def accept(self, token: int) -> bool:
        """Go on by a token that the mask allowed; True when nothing but the end can follow it."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())


class GrammarCompiler:
    """Formats to grammars over one tokenizer. Thread-safe; compiled formats are kept, least recently used dropped."""

    def __init__(self, tokenizer: Any, vocabulary: int, stop_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = _Vocabulary(
            size=vocabulary,
            stop_ids=tuple(sorted(stop_ids)),
            quote=_token(tokenizer, '"'),
            inside_string=_token(tokenizer, "~"),
            closers=tuple(_token(tokenizer, text) for text in ("]", "}", '"')),
            glued=_glued(tokenizer, vocabulary),
        )
        self._lock = threading.Lock()
        self._made: LLTokenizer | None = None
        self._kept: OrderedDict[AnswerFormat, LLMatcher] = OrderedDict()

    def compile(self, answer_format: AnswerFormat) -> TokenGrammar:
        """A fresh grammar for one generation; the first of a process takes about a second, others milliseconds.

        Raises:
            InvalidInput: `schema_unsupported` for a keyword or pattern that cannot be followed token by token,
                `schema_too_complex` for one that passes the limits.
        """
        with self._lock:
            known = self._kept.get(answer_format)
            if known is not None:
                self._kept.move_to_end(answer_format)
                return TokenGrammar(known.deep_copy(), self._vocabulary)
            tokenizer = self._llguidance_tokenizer()
        matcher = _compile(answer_format, tokenizer)
        with self._lock:
            self._kept[answer_format] = matcher
            while len(self._kept) > _COMPILED_KEPT:
                self._kept.popitem(last=False)
            return TokenGrammar(matcher.deep_copy(), self._vocabulary)

    def _llguidance_tokenizer(self) -> LLTokenizer:
        if self._made is None:
            from llguidance.hf import from_tokenizer

            self._made = from_tokenizer(
                self._tokenizer, n_vocab=self._vocabulary.size, eos_token=[*self._vocabulary.stop_ids]
            )
        return self._made


def _compile(answer_format: AnswerFormat, tokenizer: LLTokenizer) -> LLMatcher:
    from llguidance import LLMatcher, LLParserLimits

    limits = LLParserLimits(
        max_items_in_row=2_000,
        initial_lexer_fuel=1_000_000,
        step_lexer_fuel=200_000,
        step_max_items=50_000,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        verbose_errors=False,
    )
    schema = {"type": "object"} if answer_format.schema is None else json.loads(answer_format.schema)
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)  # type: ignore[arg-type]
    except ValueError as error:
        raise InvalidInput(f"the schema cannot be used: {error}", code="schema_unsupported") from error
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits)
    if not matcher.is_error():
        # The first mask tells a schema that nothing satisfies (`{"$ref": "#"}`), and warms the lexer of all copies.
        matcher.compute_bitmask()
    if matcher.is_error():
        detail = matcher.get_error().splitlines()[0][:300]
        large = any(word in detail.lower() for word in ("fuel", "limit", "too many", "too large", "too complex"))
        code = "schema_too_complex" if large else "schema_unsupported"
        raise InvalidInput(f"the schema cannot be used: {detail}", code=code)
    return matcher


def _token(tokenizer: Any, text: str) -> int:
    """The token that is exactly this ASCII character; every tokenizer with a byte-level vocabulary has it."""
    return int(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids[-1])


def _glued(tokenizer: Any, vocabulary: int) -> torch.Tensor:
    found = torch.zeros((vocabulary + 31) // 32 * 32, dtype=torch.bool)
    for text, token in tokenizer.backend_tokenizer.get_vocab().items():
        if '"' in text[:-1] and token < vocabulary:
            found[token] = True
    return found
