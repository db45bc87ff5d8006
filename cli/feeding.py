"""Feeding a source and following its jobs, with progress: shared by `tsumugi sync` and `tsumugi ingest --reader`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.client import Client
from cli.output import CommandFailed, console, errors, print_json
from cli.sources import SourceDocument, feed_documents


def feed_and_report(
    client: Client,
    documents: Iterable[SourceDocument],
    *,
    source: str,
    collection: str | None,
    groups: Sequence[str] | None,
    move_from: str | None = None,
    delete_gone: bool,
    wait: bool,
    json_output: bool,
) -> None:
    """Bring the service in line with a source, wait for its jobs, and print what came of it.

    Raises:
        CommandFailed: a document was refused or failed; or as `feed_documents`.
    """
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed}"), TimeElapsedColumn())
    failed: list[dict[str, Any]] = []
    with Progress(*columns, console=errors, transient=True, disable=json_output) as bars:
        bar = bars.add_task("looked at", total=None)
        report = feed_documents(
            client,
            documents,
            source=source,
            collection=collection,
            groups=groups,
            move_from=move_from,
            delete_gone=delete_gone,
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
        "updated": len(report.updated),
        "deleted": len(report.deleted),
        "refused": report.refused,
        "failed": failed,
    }
    if json_output:
        print_json({"source": source, **figures})
    else:
        console.print(
            f"{source}: {figures['uploaded']} uploaded, {report.unchanged} unchanged, {len(report.updated)} updated, "
            f"{len(report.deleted)} deleted"
        )
        for problem in [*report.refused, *failed]:
            errors.print(f"[red]failed[/red] {problem}", soft_wrap=True)
    if report.refused or failed:
        raise CommandFailed()
