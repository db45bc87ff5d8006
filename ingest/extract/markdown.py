"""Markdown to readable text: rendered as a reader sees it, then read as the page that it is; front matter on top.

So tables, links, struck text, lists and raw HTML mean in a Markdown file what they mean in a page.
"""

from __future__ import annotations

import re
from dataclasses import replace

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, reference

from core.table_text import write_row
from core.types import BlockKind, ExtractedDocument
from ingest.encoding import decode_text
from ingest.extract.builder import TextBuilder
from ingest.extract.front_matter import is_japanese, read_front_matter, shown_key
from ingest.extract.html import read_page

_TASK = re.compile(r"\[([ xX])\](?=\s)")


def extract_markdown(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a Markdown file; offsets count in the readable text, not in the source."""
    decoded = decode_text(data)
    front, source = read_front_matter(decoded.text)
    japanese = is_japanese(decoded.text)
    page, _, left_out = read_page(_rendered(source), max_chars=max_chars)
    body = page.build("text/markdown")
    builder = TextBuilder(max_chars=max_chars)
    # Under the document's own heading, so that what is asked of it by name is found there.
    opens = bool(front and body.blocks and body.blocks[0].kind is BlockKind.HEADING)
    if opens:
        builder.include(replace(body, blocks=body.blocks[:1]))
    builder.add(
        BlockKind.TABLE,
        "\n".join(write_row([shown_key(key, value, japanese=japanese)], [value]) for key, value in front),
    )
    builder.include(replace(body, blocks=body.blocks[1:]) if opens else body)
    titles = [value for key, value in front if key.lower() == "title"]
    headings = [body.text[block.start : block.end] for block in body.blocks if block.kind is BlockKind.HEADING]
    return builder.build(
        "text/markdown",
        encoding=decoded.encoding,
        title=next(iter([*titles, *headings]), None),
        quality={"engine": "markdown-it", "replaced": decoded.replaced, **left_out},
    )


def _rendered(source: str) -> str:
    """As HTML. A single line break is kept, for Japanese has no space to put there; a task is a ticked box."""
    markdown = MarkdownIt("commonmark", {"maxNesting": 40, "breaks": True}).enable(["table", "strikethrough"])
    markdown.block.ruler.at("reference", _reference, {"alt": []})
    tokens = markdown.parse(source)
    for before, token in zip(tokens, tokens[2:], strict=False):
        if before.type == "list_item_open" and token.type == "inline" and token.children:
            first = token.children[0]
            first.content = _TASK.sub(lambda box: "☐" if box.group(1) == " " else "☑", first.content, count=1)
    return str(markdown.renderer.render(tokens, markdown.options, {}))


def _reference(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """Link definitions, which are not shown; `[^1]: …` is a footnote, and is."""
    at = state.bMarks[start] + state.tShift[start]
    return not state.src.startswith("[^", at) and reference(state, start, end, silent)
