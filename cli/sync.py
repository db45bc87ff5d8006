"""`tsumugi sync`: a folder, a bucket or a reader kept in line with the service, each document by its own name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.buckets import SCHEME, bucket_documents, bucket_name
from cli.client import connect
from cli.feeding import feed_and_report
from cli.output import CommandFailed, DataDirOption, JsonOption
from cli.sources import folder_documents, reader_documents
from core.settings import load_settings


def sync(
    place: Annotated[str | None, typer.Argument(help="Folder, or s3://BUCKET/PREFIX.")] = None,
    reader: Annotated[str | None, typer.Option(help="A LlamaIndex reader instead, as module:Class.")] = None,
    reader_args: Annotated[str, typer.Option(help='JSON: its arguments, or {"init": {...}, "load": {...}}.')] = "{}",
    source: Annotated[str | None, typer.Option(help="Name of the source [default: folder name, or class].")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection [default: default].")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Only keys with this group may read it; repeatable.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Every key of the tenant may read it again.")] = False,
    move_from: Annotated[
        str | None, typer.Option(help="Collection that this source's documents are in; they come into --collection.")
    ] = None,
    delete: Annotated[bool, typer.Option(help="Delete documents that the source no longer has.")] = True,
    wait: Annotated[bool, typer.Option(help="Wait until every document is ready or failed.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Bring the service in line with a folder, a bucket or a reader. Run it again at any time, also after a stop."""
    if (place is None) == (reader is None):
        raise CommandFailed("give either a folder, or a bucket, or --reader", exit_code=2)
    if public and group:
        raise CommandFailed("give either --group or --public", exit_code=2)
    if reader is not None:
        documents = reader_documents(reader, reader_args)
        name = reader.rpartition(":")[2]
    elif place is not None and place.startswith(SCHEME):
        settings = load_settings(**({"data_dir": data_dir} if data_dir is not None else {}))
        documents = bucket_documents(place, settings)
        name = "/".join(part for part in bucket_name(place) if part).rstrip("/")
    else:
        folder = Path(place or "")
        if not folder.is_dir():
            raise CommandFailed(f"there is no folder '{folder}'", exit_code=2)
        documents = folder_documents(folder)
        name = folder.resolve().name
    with connect(data_dir) as client:
        feed_and_report(
            client,
            documents,
            source=source or name,
            collection=collection,
            groups=[] if public else group or None,
            move_from=move_from,
            delete_gone=delete,
            wait=wait,
            json_output=json_output,
        )
