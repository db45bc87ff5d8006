"""`tsumugi models`: the embedded base model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from cli.output import DataDirOption, JsonOption, console, print_json
from core.settings import load_settings

app = typer.Typer(help="The embedded base model.", no_args_is_help=True)


@app.callback()
def models() -> None:
    """The embedded base model."""


@app.command("prepare", epilog="Example: tsumugi models prepare --data-dir ./data")
def prepare(json_output: JsonOption = False, data_dir: DataDirOption = None) -> None:
    """Convert the base model and merge the starter adapter now, instead of at the first start."""
    from generation.build import build_base

    settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
    base = build_base(settings)
    if json_output:
        print_json(asdict(base))
    else:
        console.print(f"{base.stamp} in {base.path}", soft_wrap=True)


@app.command("card", epilog="Example: tsumugi models card /models/llama-3.1-8b --name llama-3.1-8b")
def card(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder saved by transformers.")],
    name: Annotated[str, typer.Option(help="How answers and manifests name it.")],
    json_output: JsonOption = False,
) -> None:
    """Write the card of a base that a server holds: digests of weights (all are read), tokenizer and template."""
    from generation.models import describe_base, write_card

    base = describe_base(folder.resolve(), name)
    write_card(base)
    if json_output:
        print_json(asdict(base))
    else:
        console.print(f"{base.stamp} in {base.path}", soft_wrap=True)
