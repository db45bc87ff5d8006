"""Markdown to readable text: block structure from markdown-it's tokens, inline markup dropped, link text kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from core.types import BlockKind, ExtractedDocument
from ingest.encoding import decode_text
from ingest.extract.builder import TextBuilder

_FRONT_MATTER = re.compile(r"\A---[^\S\n]*\n(.*?)\n(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[^\S\n]*[\"']?(.+?)[\"']?[^\S\n]*$", re.MULTILINE)
_TAG = re.compile(r"<!--.*?-->|</?[A-Za-z][^>]*>", re.DOTALL)
_HIDDEN_HTML = re.compile(r"<(script|style|template)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)


def extract_markdown(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a Markdown file; offsets count in the readable text, not in the source."""
    decoded = decode_text(data)
    source, title = decoded.text, None
    front = _FRONT_MATTER.match(source)
    if front:
        found = _TITLE.search(front.group(1))
        title = found.group(1) if found else None
        source = source[front.end() :]
    tokens = MarkdownIt("commonmark", {"maxNesting": 40}).enable(["table", "strikethrough"]).parse(source)
    builder = TextBuilder(max_chars=max_chars)
    headings = _write_blocks(tokens, builder)
    return builder.build(
        "text/markdown",
        encoding=decoded.encoding,
        title=title or (headings[0] if headings else None),
        quality={"engine": "markdown-it", "replaced": decoded.replaced},
    )


def _write_blocks(tokens: Sequence[Token], builder: TextBuilder) -> list[str]:
    headings: list[str] = []
    lists: list[int | None] = []
    marker: str | None = None
    level: int | None = None
    stream = iter(tokens)
    for token in stream:
        if token.type in {"bullet_list_open", "ordered_list_open"}:
            ordered = token.type.startswith("ordered")
            lists.append(int(token.attrGet("start") or 1) if ordered else None)
        elif token.type in {"bullet_list_close", "ordered_list_close"}:
            lists.pop()
        elif token.type == "list_item_open":
            number = lists[-1]
            marker = "  " * (len(lists) - 1) + ("- " if number is None else f"{number}. ")
            if number is not None:
                lists[-1] = number + 1
        elif token.type == "heading_open":
            level = int(token.tag[1])
        elif token.type == "heading_close":
            level = None
        elif token.type == "table_open":
            builder.add(BlockKind.TABLE, "\n".join(_table_rows(stream)))
        elif token.type in {"fence", "code_block"}:
            builder.add(BlockKind.CODE, token.content)
        elif token.type == "html_block":
            builder.add(BlockKind.PARAGRAPH, _TAG.sub("", _HIDDEN_HTML.sub("", token.content)))
        elif token.type == "inline":
            text = inline_text(token.children or [])
            if level is not None:
                headings.append(text.strip())
                builder.add(BlockKind.HEADING, " ".join(text.split()), level=level)
            elif lists:
                builder.add(BlockKind.LIST_ITEM, (marker or "") + text)
                marker = None
            else:
                builder.add(BlockKind.PARAGRAPH, text)
    return headings


def _table_rows(stream: Iterator[Token]) -> Iterator[str]:
    cells: list[str] = []
    for token in stream:
        if token.type == "table_close":
            return
        if token.type == "tr_open":
            cells = []
        elif token.type == "inline":
            cells.append(" ".join(inline_text(token.children or []).split()))
        elif token.type == "tr_close":
            yield " | ".join(cells)


def inline_text(children: Sequence[Token]) -> str:
    """Readable text of an inline token: images by their alternative text, soft breaks as line breaks."""
    parts: list[str] = []
    for child in children:
        if child.type in {"text", "code_inline", "text_special"}:
            parts.append(child.content)
        elif child.type in {"softbreak", "hardbreak"}:
            parts.append("\n")
        elif child.type == "image":
            parts.append(inline_text(child.children or []))
        elif child.type == "html_inline" and re.match(r"<br\s*/?>", child.content, re.IGNORECASE):
            parts.append("\n")
    return "".join(parts)
