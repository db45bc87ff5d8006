"""`tsumugi dictionary`: words that stand for one another in questions and documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cli.client import connect
from cli.output import EXIT_USAGE, CommandFailed, DataDirOption, JsonOption, errors, print_json

app = typer.Typer(help="Synonyms, abbreviations and product aliases: show, set.", no_args_is_help=True)


@app.command("show", epilog="Example: tsumugi dictionary show > words.csv")
def show(json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Print the dictionary as CSV: a group a line, a word a cell."""
    with connect(data_dir) as client:
        if json_output:
            print_json(client.get("/v1/admin/dictionary"))
        else:
            answer = client.request("GET", "/v1/admin/dictionary", params={"format": "csv"})
            typer.echo(answer.text, nl=False)


@app.command("set", epilog="Example: tsumugi dictionary set words.csv")
def put(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="CSV, or .json with {'groups': [[...]]}.")],
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Replace the dictionary by a file; an empty file removes it. In force at the next search."""
    data = file.read_bytes()
    kind = "text/csv"
    if file.suffix.lower() == ".json":
        kind = "application/json"
        try:
            json.loads(data)
        except ValueError as error:
            raise CommandFailed(f"{file} is not JSON: {error}", exit_code=EXIT_USAGE) from error
    with connect(data_dir) as client:
        kept = client.request("PUT", "/v1/admin/dictionary", content=data, headers={"Content-Type": kind}).json()
    if json_output:
        print_json(kept)
    else:
        errors.print(f"{len(kept['groups'])} group(s) in force")
