"""`tsumugi sync`: a folder or a reader kept in line with the service. Unchanged is skipped, gone is deleted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.client import connect
from cli.output import CommandFailed, DataDirOption, JsonOption, console, errors, print_json
from cli.sources import feed_documents, folder_documents, reader_documents


def sync(
    folder: Annotated[Path | None, typer.Argument(help="Folder.", exists=True, file_okay=False)] = None,
    reader: Annotated[str | None, typer.Option(help="A LlamaIndex reader instead, as module:Class.")] = None,
    reader_args: Annotated[str, typer.Option(help='JSON: its arguments, or {"init": {...}, "load": {...}}.')] = "{}",
    source: Annotated[str | None, typer.Option(help="Name of the source [default: folder name, or class].")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection [default: default].")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Only keys with this group may read it; repeatable.")] = None,
    delete: Annotated[bool, typer.Option(help="Delete documents that the source no longer has.")] = True,
    wait: Annotated[bool, typer.Option(help="Wait until every document is ready or failed.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Bring the service in line with a folder or a reader. Run it again at any time, also after an interruption."""
    if (folder is None) == (reader is None):
        raise CommandFailed("give either a folder or --reader", exit_code=2)
    if folder is not None:
        documents = folder_documents(folder)
        name = source or folder.resolve().name
    else:
        assert reader is not None
        documents = reader_documents(reader, reader_args)
        name = source or reader.rpartition(":")[2]
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed}"), TimeElapsedColumn())
    failed: list[dict[str, Any]] = []
    with connect(data_dir) as client, Progress(*columns, console=errors, transient=True, disable=json_output) as bars:
        bar = bars.add_task("looked at", total=None)
        report = feed_documents(
            client,
            documents,
            source=name,
            collection=collection,
            groups=group,
            delete_gone=delete,
            on_each=lambda: bars.advance(bar),
        )
        if wait:
            bar = bars.add_task("ingested", total=len(report.uploaded))
            for item in report.uploaded:
                job = client.follow_job(item["job"]["id"]) if item["job"] else None
                if job is not None and job["status"] != "succeeded":
                    failed.append({"filename": item["document"]["filename"], "error": job["error"]})
                bars.advance(bar)
    figures = {
        "uploaded": len(report.uploaded),
        "unchanged": report.unchanged,
        "deleted": len(report.deleted),
        "refused": report.refused,
        "failed": failed,
    }
    if json_output:
        print_json({"source": name, **figures})
    else:
        console.print(
            f"{name}: {figures['uploaded']} uploaded, {report.unchanged} unchanged, {len(report.deleted)} deleted"
        )
        for problem in [*report.refused, *failed]:
            errors.print(f"[red]failed[/red] {problem}", soft_wrap=True)
    if report.refused or failed:
        raise CommandFailed()
