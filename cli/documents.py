"""`tsumugi ingest` and `tsumugi documents`: files in, list, delete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cli.client import ApiProblem, Client, connect
from cli.feeding import feed_and_report
from cli.output import CommandFailed, DataDirOption, JsonOption, console, errors, print_json, print_rows
from cli.sources import is_unchanged, known_documents, reader_documents
from core.names import one_spelling

_AT_ONCE = 100

app = typer.Typer(help="List, look at, read again and delete documents.", no_args_is_help=True)


def ingest(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files, or folders taken with everything below.", exists=True)
    ] = None,
    reader: Annotated[str | None, typer.Option(help="A LlamaIndex reader instead, as module:Class.")] = None,
    reader_args: Annotated[str, typer.Option(help='JSON: its arguments, or {"init": {...}, "load": {...}}.')] = "{}",
    source: Annotated[str | None, typer.Option(help="Name of the reader's documents [default: its class].")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection [default: default].")] = None,
    group: Annotated[list[str] | None, typer.Option(help="Only keys with this group may read it; repeatable.")] = None,
    external_id: Annotated[
        str | None, typer.Option(help="Name for later replacement, one file only [default: its path below PATH].")
    ] = None,
    encoding: Annotated[
        str | None,
        typer.Option(help="What the text of the files is in, such as cp932 [default: judged by the service]."),
    ] = None,
    ask_password: Annotated[
        bool, typer.Option("--password", help="Ask for the password of encrypted PDF, Office and ZIP files.")
    ] = False,
    password_file: Annotated[
        typer.FileText | None,
        typer.Option(help="Read that password from the first line of a file; - is standard input."),
    ] = None,
    wait: Annotated[bool, typer.Option(help="Wait until every document is ready or failed.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Upload files and wait until they can be searched.

    The same file again replaces what it brought before, or is skipped when its bytes have not changed. With --reader
    the documents come from a LlamaIndex reader; `tsumugi sync` also deletes those that it no longer has.
    """
    if bool(paths) == (reader is not None):
        raise CommandFailed("give either files and folders, or --reader", exit_code=2)
    if reader is not None:
        if external_id is not None:
            raise CommandFailed("--external-id goes with a file; a reader names its documents", exit_code=2)
        with connect(data_dir) as client:
            feed_and_report(
                client,
                reader_documents(reader, reader_args),
                source=source or reader.rpartition(":")[2],
                collection=collection,
                groups=group,
                delete_gone=False,
                wait=wait,
                json_output=json_output,
            )
        return
    files = list(_files_of(paths or []))
    if external_id is not None and len(files) != 1:
        raise CommandFailed("--external-id goes with exactly one file", exit_code=2)
    results: list[dict[str, Any]] = []
    fields = {"encoding": encoding, "password": _password(ask_password, password_file)}
    with connect(data_dir) as client, _progress(quiet=json_output or not wait) as progress:
        bar = progress.add_task("upload", total=len(files))
        known = known_documents(client, "", collection) if len(files) > 1 and not group else {}
        for path, name in files:
            there = known.get(one_spelling(external_id or name))
            judged = not any(fields.values())
            if (
                judged
                and there is not None
                and is_unchanged(there, hashlib.sha256(path.read_bytes()).hexdigest(), path.name)
            ):
                results.append({"path": str(path), "document": there, "job": None, "unchanged": True})
            else:
                results += _upload(client, path, external_id or name, collection, group, fields)
            progress.advance(bar)
        if wait:
            bar = progress.add_task("ingest", total=len(results))
            for result in results:
                _follow(client, result)
                progress.advance(bar)
    if json_output:
        print_json({"items": results})
    else:
        print_rows(results, ["path", "document.id", "document.status", "error.code"], empty="no files found")
        for result in results:
            if result.get("error"):
                errors.print(f"[red]failed[/red] {result['path']}: {result['error'].get('detail')}", soft_wrap=True)
            for warning in (result.get("document") or {}).get("warnings") or ():
                count = "" if warning["count"] is None else f"{warning['count']} "
                line = f"{result['path']}: {warning['code']}: {count}{warning['detail']}"
                errors.print("[yellow]note[/yellow]", escape(line), soft_wrap=True)
    if any(result.get("error") for result in results):
        raise CommandFailed()


@app.command("list", epilog="Example: tsumugi documents list --status failed")
def list_documents(
    status: Annotated[str | None, typer.Option(help="queued, processing, ready, failed or deleting.")] = None,
    code: Annotated[str | None, typer.Option(help="Only those that failed with this error code.")] = None,
    retryable: Annotated[
        bool | None, typer.Option("--retryable/--permanent", help="Only those that failed for now, or for good.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 100,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """List the documents that the key may read, newest first."""
    with connect(data_dir) as client:
        found = list(client.items("/v1/documents", limit, status=status, code=code, retryable=retryable))
    if json_output:
        print_json({"items": found})
    else:
        print_rows(found, ["id", "filename", "status", "created_at", "error.code"], empty="no documents")


@app.command("show", epilog="Example: tsumugi documents show doc_0190... --text")
def show_document(
    document_id: Annotated[str, typer.Argument(help="Id of a document.")],
    text: Annotated[bool, typer.Option("--text", help="Print the extracted text instead of the facts.")] = False,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Show one document, or the text extracted from it."""
    with connect(data_dir) as client:
        document = client.get(f"/v1/documents/{document_id}")
        if text:
            content = client.request("GET", f"/v1/documents/{document_id}/content", params={"as": "text"}).text
    if text and not json_output:
        typer.echo(content)
    else:
        print_json({**document, "text": content} if text else document)


@app.command("update", epilog="Example: tsumugi documents update doc_0190... --group hr --valid-until 2026-03-31")
def update_document(
    document_id: Annotated[str, typer.Argument(help="Id of a document.")],
    group: Annotated[list[str] | None, typer.Option(help="Only keys with this group may read it; repeatable.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Every key of the tenant may read it.")] = False,
    collection: Annotated[str | None, typer.Option(help="Collection to move it to.")] = None,
    valid_from: Annotated[str | None, typer.Option(help="First day on which it holds, or `none`.")] = None,
    valid_until: Annotated[str | None, typer.Option(help="Last day on which it holds, or `none`.")] = None,
    supersedes: Annotated[
        str | None, typer.Option(help="Id or external id of the document whose place it takes, or `none`.")
    ] = None,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Change who may read a document, where it is filed, and when it holds: in force at once."""
    if public and group:
        raise CommandFailed("give either --group or --public", exit_code=2)
    change: dict[str, Any] = {} if collection is None else {"collection": collection}
    if group or public:
        change["groups"] = group or []
    for name, value in (("valid_from", valid_from), ("valid_until", valid_until), ("supersedes", supersedes)):
        if value is not None:
            change[name] = None if value == "none" else value
    if not change:
        raise CommandFailed("nothing to change; see --help", exit_code=2)
    with connect(data_dir) as client:
        document = client.patch(f"/v1/documents/{document_id}", change)
    if json_output:
        print_json(document)
    else:
        shown = ["id", "filename", "collection", "valid_from", "valid_until", "validity_source"]
        print_rows([document], shown, empty="")


@app.command("reread", epilog="Example: tsumugi documents reread --all --before 2026-04-01")
def reread_documents(
    document_ids: Annotated[list[str] | None, typer.Argument(help="Ids of documents.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All documents that the key may read.")] = False,
    collection: Annotated[str | None, typer.Option(help="With --all: only of this collection.")] = None,
    before: Annotated[
        datetime | None, typer.Option(help="With --all: only those read before this local time, such as the upgrade's.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until they are read.")] = True,
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Extract stored documents again, as after an upgrade that reads them better. The old text serves until then."""
    if all_ == bool(document_ids) or (document_ids and (collection or before)):
        raise CommandFailed("give either ids, or --all with --collection and --before as wanted", exit_code=2)
    results: list[dict[str, Any]] = []
    with connect(data_dir) as client, _progress(quiet=json_output or not wait) as progress:
        ids = document_ids or []
        for first in range(0, len(ids), _AT_ONCE):
            results += _reread(client, {"documents": ids[first : first + _AT_ONCE]})
        if all_:
            moment = None if before is None else before.astimezone().isoformat()
            results += _reread(client, {"all": True, "collection": collection, "read_before": moment})
        if wait:
            bar = progress.add_task("reread", total=len(results))
            for result in results:
                _follow(client, result)
                progress.advance(bar)
    if json_output:
        print_json({"items": results})
    else:
        print_rows(results, ["document.id", "document.filename", "job.status", "error.code"], empty="no documents")
    if any(result.get("error") for result in results):
        raise CommandFailed()


@app.command("delete", epilog="Example: tsumugi documents delete doc_0190...")
def delete_documents(
    document_ids: Annotated[list[str], typer.Argument(help="Ids of documents.")],
    json_output: JsonOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Delete documents: invisible at once, gone from the index soon after."""
    answers = []
    with connect(data_dir) as client:
        for document_id in document_ids:
            answers.append({"id": document_id, "answer": client.delete(f"/v1/documents/{document_id}")})
    if json_output:
        print_json({"items": answers})
    else:
        console.print(f"deleted {len(answers)}")


def _reread(client: Client, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What is read again by a request and, as the service answers a page at a time, by those that go on from it."""
    page = client.post("/v1/documents/reread", asked)
    yield from page["items"]
    while page["next_cursor"] is not None:
        page = client.post("/v1/documents/reread", {**asked, "cursor": page["next_cursor"]})
        yield from page["items"]


def _files_of(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    for path in paths:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                relative = file.relative_to(path)
                if file.is_file() and not any(part.startswith(".") for part in relative.parts):
                    yield file, relative.as_posix()
        else:
            yield path, path.name


def _upload(
    client: Client,
    path: Path,
    external_id: str,
    collection: str | None,
    groups: list[str] | None,
    more: Mapping[str, str | None],
) -> list[dict[str, Any]]:
    """What became of a file: one document, or one for each file of an archive."""
    fields = {"external_id": external_id, **{name: value for name, value in more.items() if value is not None}}
    if collection is not None:
        fields["collection"] = collection
    if groups:
        fields["groups"] = json.dumps(groups)
    try:
        with path.open("rb") as file:
            answer = client.post("/v1/documents", files={"file": (path.name, file)}, data=fields)
    except ApiProblem as problem:
        if problem.status in {401, 403}:
            raise
        return [{"path": str(path), "document": None, "job": None, "error": problem.problem}]
    return [{"path": str(path), **item} for item in answer["items"]]


def _password(ask: bool, file: IO[str] | None) -> str | None:
    """From a file or the keyboard: words of a command line are seen by every process of the machine."""
    if file is not None:
        return file.readline().rstrip("\r\n")
    return str(typer.prompt("password of the files", hide_input=True, err=True)) if ask else None


def _follow(client: Client, result: dict[str, Any]) -> None:
    job = result.get("job")
    if not job:
        return
    result["job"] = client.follow_job(job["id"])
    result["document"] = client.get(f"/v1/documents/{result['document']['id']}")
    if result["job"]["status"] != "succeeded":
        result["error"] = result["job"].get("error") or {"code": result["job"]["status"], "detail": "the job ended"}


def _progress(*, quiet: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=errors, transient=True, disable=quiet)
