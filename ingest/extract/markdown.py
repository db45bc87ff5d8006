"""Markdown to readable text: rendered as a reader sees it, then read as the page that it is; front matter on top.

So tables, links, struck text, lists and raw HTML mean in a Markdown file what they mean in a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, reference

from core.table_text import write_row
from core.types import BlockKind, ExtractedDocument
from ingest.encoding import decode_text
from ingest.extract.builder import TextBuilder
from ingest.extract.html import read_page

_FENCES = {"---": ("---", "..."), "+++": ("+++",)}
_KEY = re.compile(r"([^\s:=#\[\]{}\"'-][^:=\n]{0,80}?)\s{0,20}[:=](?:\s|\Z)")
_TASK = re.compile(r"\[([ xX])\](?=\s)")
_MAX_FRONT_LINES = 500


def extract_markdown(data: bytes, *, max_chars: int) -> ExtractedDocument:
    """Extract a Markdown file; offsets count in the readable text, not in the source."""
    decoded = decode_text(data)
    front, source = _front_matter(decoded.text)
    page, _, left_out = read_page(_rendered(source), max_chars=max_chars)
    body = page.build("text/markdown")
    builder = TextBuilder(max_chars=max_chars)
    builder.add(BlockKind.TABLE, "\n".join(write_row([key], [value]) for key, value in front))
    builder.include(body)
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


def _front_matter(text: str) -> tuple[list[tuple[str, str]], str]:
    """Keys and values of the front matter (YAML or TOML, one level and lists of it), and the text below it."""
    lines = text.split("\n", _MAX_FRONT_LINES + 1)
    closing = _FENCES.get(lines[0].rstrip())
    if closing is None:
        return [], text
    for number, line in enumerate(lines[1:], start=1):
        if line.rstrip() in closing:
            found = list(_pairs(lines[1:number]))
            return found, "\n".join(lines[number + 1 :]) if found else text
    return [], text


def _pairs(lines: list[str]) -> Iterator[tuple[str, str]]:
    """`key: value`; a list or a folded text below its key is the key's value; a key below another is joined to it."""
    key, values, parent = "", [], ""
    for line in lines:
        words = line.strip()
        if not words or words.startswith("#"):
            continue
        indented = line[:1].isspace()
        found = None if words.startswith("- ") else _KEY.match(words)
        if found is None:
            values.append(_value(words.removeprefix("- ")))
            continue
        if key and any(values):
            yield key, ", ".join(filter(None, values))
        name = _value(found.group(1))
        if not indented:
            parent = name
        key = f"{parent} / {name}" if indented and parent else name
        values = [_value(words[found.end() :])]
    if key and any(values):
        yield key, ", ".join(filter(None, values))


def _value(text: str) -> str:
    """Without quotes and the brackets of a list, a comment behind it or the mark of a folded text."""
    text = text.strip()
    if text[:1] in {'"', "'"} and text.find(text[0], 1) > 0:
        return text[1 : text.find(text[0], 1)]
    text = text.partition(" #")[0].rstrip()
    if text in {"|", ">", "|-", ">-"}:
        return ""
    if text.startswith("[") and text.endswith("]"):
        return ", ".join(_value(item) for item in text[1:-1].split(",") if item.strip())
    return text
