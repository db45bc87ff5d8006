"""Sources of documents: folders, buckets and LlamaIndex readers, fed through the same jobs (docs/connectors.md).

What is there already is asked of the service, so a run that was interrupted goes on where it stopped, from any machine.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cli.client import ApiProblem, Client
from cli.output import CommandFailed
from core.names import one_spelling

_RANDOM_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
REVISION_KEY = "source_revision"
ARCHIVE_MARK = "!/"
"""Between the name of an archive and that of a file in it, as the service makes external ids of members."""
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_SETTLED = frozenset({"ready", "queued", "processing"})


@dataclass(frozen=True, slots=True)
class SourceDocument:
    """One document of a source. `key` is its stable name within the source; `read` gives its bytes.

    Whether it has changed is told by `sha256`, or by `revision` where the source knows one without reading the bytes,
    or where it becomes several documents: it is then kept in their metadata, under `REVISION_KEY`.
    """

    key: str
    filename: str
    sha256: str | None
    read: Callable[[], bytes]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None


class Unreadable(Exception):
    """Raised by `SourceDocument.read`: this document cannot be had now. It is reported, and what is there is kept."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.problem = {"code": code, "detail": detail}


@dataclass(slots=True)
class FeedReport:
    """What one run did. `uploaded` holds {document, job} as the service answered."""

    uploaded: list[dict[str, Any]] = field(default_factory=list)
    unchanged: int = 0
    updated: list[str] = field(default_factory=list)
    """External ids of documents whose bytes are the same and whose groups or collection were changed."""
    deleted: list[str] = field(default_factory=list)
    refused: list[dict[str, Any]] = field(default_factory=list)


def feed_documents(
    client: Client,
    documents: Iterable[SourceDocument],
    *,
    source: str,
    collection: str | None = None,
    groups: Sequence[str] | None = None,
    move_from: str | None = None,
    delete_gone: bool = False,
    on_each: Callable[[], None] = lambda: None,
) -> FeedReport:
    """Bring the service in line with a source: new and changed documents go up, unchanged ones are skipped.

    Documents are named `SOURCE:KEY`. groups: unchanged documents that have others get these; None leaves them what they
    have. move_from: a collection whose documents of this source come into `collection` first, as they are.
    delete_gone: those of this source that did not come are deleted, unless none came at all: a share that is not
    mounted looks like an empty folder.

    Raises:
        CommandFailed: two documents with one key; nothing came and documents would be deleted.
        ApiProblem: the key may not do this.
    """
    prefix = one_spelling(f"{source}:")
    report = FeedReport()
    if move_from is not None:
        _move(client, prefix, move_from, collection or "default", report)
    known = known_documents(client, prefix, collection)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for external_id in known:
        archive, mark, _ = external_id.partition(ARCHIVE_MARK)
        if mark:
            members[archive].append(external_id)
    came: set[str] = set()
    kept: set[str] = set()
    for document in documents:
        external_id = one_spelling(prefix + document.key)  # as the service names it; macOS spells paths otherwise
        if external_id in came:
            raise CommandFailed(f"two documents of the source are called '{document.key}'")
        came.add(external_id)
        inside = members[external_id]
        if is_unchanged(known.get(external_id), document.sha256, document.filename, document.revision) or (
            inside and all(is_unchanged(known[each], None, None, document.revision) for each in inside)
        ):
            same = [known[each] for each in (external_id, *inside) if each in known]
            changed = [one for one in same if groups is not None and sorted(set(groups)) != one["groups"]]
            for one in changed:
                client.patch(f"/v1/documents/{one['id']}", {"groups": list(groups or ())})
                report.updated.append(one["external_id"])
            report.unchanged += not changed
            kept.update((external_id, *inside))
        else:
            kept.add(external_id)
            kept.update(_upload(client, document, external_id, collection, groups, report) or inside)
        on_each()
    gone = sorted(set(known) - kept)
    if delete_gone and gone:
        if not came:
            raise CommandFailed(
                f"source '{source}' is empty, {len(gone)} documents would be deleted; delete them by hand"
            )
        for external_id in gone:
            client.delete(f"/v1/documents/{known[external_id]['id']}")
            report.deleted.append(external_id)
    return report


def _move(client: Client, prefix: str, collection: str, into: str, report: FeedReport) -> None:
    """What the new collection holds already is left where it is: the run that follows looks after that one."""
    there = known_documents(client, prefix, into)
    for external_id, document in sorted(known_documents(client, prefix, collection).items()):
        if external_id not in there:
            client.patch(f"/v1/documents/{document['id']}", {"collection": into})
            report.updated.append(external_id)


def known_documents(client: Client, prefix: str, collection: str | None) -> dict[str, dict[str, Any]]:
    """{external_id: document} of all that the service has under a prefix, those being deleted left out."""
    found = client.items("/v1/documents", collection=collection or "default")
    return {
        item["external_id"]: item
        for item in found
        if item["external_id"] is not None and item["external_id"].startswith(prefix) and item["status"] != "deleting"
    }


def is_unchanged(
    known: Mapping[str, Any] | None, sha256: str | None, filename: str | None, revision: str | None = None
) -> bool:
    """Whether the newest generation has these bytes and this name, and is on its way, ready, or failed for good.

    filename: None for a member of an archive, which has a name of its own.
    """
    if known is None or (filename is not None and known["filename"] != one_spelling(filename)):
        return False
    if revision is None and (sha256 is None or known["source_sha256"] != sha256):
        return False
    if revision is not None and known["metadata"].get(REVISION_KEY) != revision:
        return False
    if known["active_generation"] not in {None, known["generation"]}:
        return False  # a replacement is under way: the service knows better
    return known["status"] in _SETTLED or not (known["error"] or {}).get("retryable")


def folder_documents(folder: Path) -> Iterator[SourceDocument]:
    """Every file below a folder, hidden ones left out; keys are paths below it."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts) or path.stat().st_size == 0:
            continue
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        # An archive becomes its files, none of which has its digest.
        revision = f"sha256:{digest}" if path.name.lower().endswith(_ARCHIVES) else None
        yield SourceDocument(relative.as_posix(), path.name, digest, path.read_bytes, revision=revision)


def reader_documents(reader: str, arguments: str) -> Iterator[SourceDocument]:
    """Documents of a LlamaIndex reader. `module:Class`, with JSON {"init": {...}, "load": {...}}, or init alone.

    Keys: the document's own id, unless it is a random one; then `file_path` and `page_label` of its metadata; else a
    digest of its text. Documents without text are left out.

    Raises:
        CommandFailed: no such class, or arguments that it does not take.
    """
    module_name, _, class_name = reader.partition(":")
    try:
        given = json.loads(arguments)
        parts = given if set(given) <= {"init", "load"} else {"init": given}
        made = getattr(importlib.import_module(module_name), class_name)(**parts.get("init", {}))
        documents = made.load_data(**parts.get("load", {}))
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise CommandFailed(f"reader '{reader}' cannot be used: {error}", exit_code=2) from error
    times: dict[str, int] = {}
    for document in documents:
        text = str(document.get_content())
        if not text.strip():
            continue
        metadata = json.loads(json.dumps(dict(document.metadata), default=str))
        key = _stable_key(str(document.id_), metadata, text)
        times[key] = times.get(key, 0) + 1
        if times[key] > 1:
            key = f"{key}#{times[key]}"
        data = text.encode("utf-8", "replace")
        filename = Path(str(metadata.get("file_name") or key)).name[:200] or "document"
        name = filename if filename.endswith((".md", ".txt")) else f"{filename}.txt"
        yield SourceDocument(key, name, hashlib.sha256(data).hexdigest(), partial(bytes, data), metadata)


def _stable_key(given: str, metadata: Mapping[str, Any], text: str) -> str:
    if not _RANDOM_ID.match(given):
        return given
    if metadata.get("file_path"):
        page = metadata.get("page_label")
        return f"{metadata['file_path']}@{page}" if page else str(metadata["file_path"])
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _upload(
    client: Client,
    document: SourceDocument,
    external_id: str,
    collection: str | None,
    groups: Sequence[str] | None,
    report: FeedReport,
) -> list[str]:
    """Names of the documents that it became; none when it was refused."""
    fields: dict[str, str] = {"external_id": external_id}
    if collection is not None:
        fields["collection"] = collection
    if groups is not None:
        fields["groups"] = json.dumps(list(groups))
    metadata = dict(document.metadata) | ({} if document.revision is None else {REVISION_KEY: document.revision})
    if metadata:
        fields["metadata"] = json.dumps(metadata, ensure_ascii=False)
    try:
        answer = client.post("/v1/documents", files={"file": (document.filename, document.read())}, data=fields)
    except Unreadable as problem:
        report.refused.append({"key": document.key, "error": problem.problem})
        return []
    except ApiProblem as problem:
        if problem.status in {401, 403}:
            raise
        report.refused.append({"key": document.key, "error": problem.problem})
        return []
    report.uploaded += answer["items"]
    return [item["document"]["external_id"] for item in answer["items"]]
