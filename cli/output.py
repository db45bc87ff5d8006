"""What commands print: tables and sentences for people, one JSON document for programs (`--json`)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder with all state [default: TSUMUGI_DATA_DIR or ./.tsumugi].", show_default=False
    ),
]


class CommandFailed(Exception):
    """A command ends without success; the message has been printed or is carried here."""

    def __init__(self, message: str | None = None, *, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message or "")
        self.message = message
        self.exit_code = exit_code


def print_json(value: Any) -> None:
    """One JSON document on stdout, Japanese as it is."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def print_rows(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, empty: str) -> None:
    """A table of the named columns; nested names with dots."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " ").replace(".", " "), overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*(escape(_cell(_reach(row, column))) for column in columns))
        count += 1
    if count:
        console.print(table)
    else:
        console.print(f"[dim]{empty}[/dim]")


def _reach(row: Mapping[str, Any], column: str) -> Any:
    value: Any = row
    for name in column.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "-"
    return str(value)
