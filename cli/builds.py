"""`tsumugi datasets distil` and `revise`: training sets that a teacher model writes from documents, or improves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cli.client import connect
from cli.output import CommandFailed, DataDirOption, JsonOption, console, print_json
from cli.tune import datasets

__all__ = ["datasets"]


@datasets.command("distil", epilog="Example: tsumugi datasets distil --questions 200 --collection handbook")
def distil(
    questions: Annotated[int, typer.Option(help="Questions asked for.")] = 100,
    per_passage: Annotated[int, typer.Option(help="Questions about one passage.")] = 2,
    collection: Annotated[str | None, typer.Option(help="Only documents of this collection.")] = None,
    document: Annotated[list[str] | None, typer.Option(help="Only this document; repeatable.")] = None,
    style: Annotated[str, typer.Option(help="How answers should sound.")] = "",
    name: Annotated[str, typer.Option(help="Name of the set.")] = "teacher",
    verify: Annotated[bool, typer.Option(help="Have the teacher check what it wrote.")] = True,
    wait: Annotated[bool, typer.Option(help="Follow the build to its end.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Have the teacher of the settings write questions and answers from documents; every row is checked."""
    body = {
        "source": "documents", "questions": questions, "per_passage": per_passage, "collection": collection,
        "document_ids": document or None, "style": style, "name": name, "verify": verify,
    }  # fmt: skip
    _build(body, wait=wait, json_output=json_output, data_dir=data_dir)


@datasets.command("revise", epilog="Example: tsumugi datasets revise dst_... --principles principles.txt")
def revise(
    dataset: Annotated[str, typer.Argument(help="Id of a set that shows answers.")],
    principles: Annotated[
        Path,
        typer.Option(exists=True, dir_okay=False, help="One principle a line; lines that start with # do not count."),
    ],
    rows: Annotated[int, typer.Option(help="Rows looked at, from the first.")] = 500,
    name: Annotated[str, typer.Option(help="Name of the sets.")] = "revised",
    wait: Annotated[bool, typer.Option(help="Follow the build to its end.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Have the teacher rewrite answers that break a principle: a set to imitate, and one of preferences."""
    lines = [line.strip() for line in principles.read_text(encoding="utf-8").splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    body = {"source": "dataset", "dataset_id": dataset, "principles": wanted, "rows": rows, "name": name}
    _build(body, wait=wait, json_output=json_output, data_dir=data_dir)


def _build(body: dict[str, Any], *, wait: bool, json_output: bool, data_dir: Path | None) -> None:
    with connect(data_dir) as client:
        build = client.post("/v1/dataset-builds", body)
        if wait:
            client.follow_job(build["job"]["id"], None if json_output else _tell)
            build = client.get(f"/v1/dataset-builds/{build['id']}")
    if json_output:
        print_json(build)
    else:
        console.print(f"{build['id']} {build['status']}", markup=False)
        for shape, count in build["report"].get("rows", {}).items():
            console.print(f"  {count} rows ({shape})", markup=False)
        for code, count in sorted(build["report"].get("left_out", {}).items()):
            console.print(f"  left out: {count} {code}", markup=False)
        for dataset_id in build["dataset_ids"]:
            console.print(f"  {dataset_id}", markup=False)
    if wait and build["status"] != "succeeded":
        raise CommandFailed()


def _tell(job: dict[str, Any]) -> None:
    console.print(f"  {job.get('stage') or 'queued'} {100 * (job.get('progress') or 0):.0f} %", markup=False)
