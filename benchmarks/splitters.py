"""Reference splitters for `benchmarks.chunking`: what a pipeline without a chunker of its own would use."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from core.ports import Embedder

Span = tuple[int, int]
SEPARATORS = ("\n\n", "\n", " ", "")
"""Of the recursive splitter, tried in order; the defaults of LangChain's RecursiveCharacterTextSplitter."""


def sentence_splitter_spans(text: str, embedder: Embedder, tokens: int, overlap: int) -> list[Span]:
    """LlamaIndex's SentenceSplitter, budget and overlap in tokens of the embedder."""
    from llama_index.core.node_parser import SentenceSplitter

    splitter = SentenceSplitter(
        chunk_size=tokens, chunk_overlap=overlap, tokenizer=lambda part: range(embedder.count_tokens(part))
    )
    return located(text, splitter.split_text(text))


def recursive_spans(text: str, count_tokens: Callable[[str], int], tokens: int, overlap: int) -> list[Span]:
    """Recursive character splitter: cut at the first separator that occurs, cut again what is too long, then merge."""
    return located(text, _split(text, SEPARATORS, count_tokens, tokens, overlap))


def located(text: str, parts: Sequence[str]) -> list[Span]:
    """Offsets of parts that follow one another in `text`, overlapping or not.

    Raises:
        ValueError: a part is not a stretch of the text.
    """
    spans: list[Span] = []
    after = 0
    for part in parts:
        start = text.index(part, after)
        spans.append((start, start + len(part)))
        after = start + 1
    return spans


def _split(
    text: str, separators: Sequence[str], count_tokens: Callable[[str], int], tokens: int, overlap: int
) -> list[str]:
    at = next(i for i, separator in enumerate(separators) if separator in text)  # "" is in every text
    separator, rest = separators[at], separators[at + 1 :]
    parts = re.split(f"(?={re.escape(separator)})", text) if separator else list(text)
    done: list[str] = []
    short: list[str] = []
    for part in filter(None, parts):
        if count_tokens(part) < tokens:
            short.append(part)
            continue
        done.extend(_merge(short, count_tokens, tokens, overlap))
        short = []
        done.extend(_split(part, rest, count_tokens, tokens, overlap) if rest else [part])
    return done + _merge(short, count_tokens, tokens, overlap)


def _merge(parts: Sequence[str], count_tokens: Callable[[str], int], tokens: int, overlap: int) -> list[str]:
    """Join neighbours up to the budget; the next chunk begins with what of the last fits into the overlap."""
    merged: list[str] = []
    window: list[tuple[str, int]] = []
    total = 0
    for part in parts:
        size = count_tokens(part)
        if window and total + size > tokens:
            merged.append("".join(piece for piece, _ in window).strip())
            while window and (total > overlap or total + size > tokens):
                total -= window.pop(0)[1]
        window.append((part, size))
        total += size
    merged.append("".join(piece for piece, _ in window).strip())
    return [chunk for chunk in merged if chunk]
