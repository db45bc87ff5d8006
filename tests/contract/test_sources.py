"""Sources kept in line with a service over HTTP: unchanged skipped, changed replaced, gone deleted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.client import Client
from cli.output import CommandFailed
from cli.sources import FeedReport, feed_documents, folder_documents, known_documents, reader_documents
from tests.api_app import Api


@pytest.fixture
def client(api: Api, api_url: str) -> Iterator[Client]:
    with Client(api_url, api.admin) as opened:
        yield opened


def counts(report: FeedReport) -> tuple[int, int, int]:
    return len(report.uploaded), report.unchanged, len(report.deleted)


def sync(client: Client, folder: Path, source: str = "steps") -> tuple[int, int, int]:
    return counts(feed_documents(client, folder_documents(folder), source=source, delete_gone=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "steps"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "一.md").write_text("# 一\n\n倉庫の鍵は総務が持つ。", encoding="utf-8")
    (folder / "two.txt").write_text("The gate opens at seven.")
    (folder / "three.csv").write_text("item,price\ntea,100\n")
    (folder / ".hidden").write_text("not for anyone")
    return folder


def test_a_folder_is_followed(client: Client, folder: Path) -> None:
    client.post("/v1/documents", {"text": "by hand", "filename": "x.txt", "external_id": "other:x.txt"})
    assert sync(client, folder) == (3, 0, 0)
    assert set(known_documents(client, "steps:", None)) == {"steps:a/一.md", "steps:two.txt", "steps:three.csv"}
    assert sync(client, folder) == (0, 3, 0)
    (folder / "two.txt").write_text("The gate opens at eight.")
    (folder / "three.csv").unlink()
    assert sync(client, folder) == (1, 1, 1)
    assert set(known_documents(client, "steps:", None)) == {"steps:a/一.md", "steps:two.txt"}
    assert set(known_documents(client, "other:", None)) == {"other:x.txt"}


def test_an_empty_source_deletes_nothing(client: Client, folder: Path, tmp_path: Path) -> None:
    assert sync(client, folder) == (3, 0, 0)
    empty = tmp_path / "not-mounted"
    empty.mkdir()
    with pytest.raises(CommandFailed, match="is empty, 3 documents would be deleted"):
        sync(client, empty)
    assert len(known_documents(client, "steps:", None)) == 3


def test_an_interrupted_run_goes_on(client: Client, folder: Path) -> None:
    class Interruption(Exception):
        pass

    def stop() -> None:
        raise Interruption

    with pytest.raises(Interruption):
        feed_documents(client, folder_documents(folder), source="steps", delete_gone=True, on_each=stop)
    assert sync(client, folder) == (2, 1, 0)


def test_a_llamaindex_reader_is_a_source(client: Client, folder: Path) -> None:
    def read() -> tuple[int, int, int]:
        arguments = json.dumps({"input_dir": str(folder), "recursive": True})
        documents = reader_documents("llama_index.core:SimpleDirectoryReader", arguments)
        return counts(feed_documents(client, documents, source="read", delete_gone=True))

    first = read()
    assert first[0] >= 2 and first[1:] == (0, 0)
    assert read() == (0, first[0], 0)  # its ids are random, its paths are not
    document = next(iter(known_documents(client, "read:", None).values()))
    assert document["metadata"]["file_name"]
    (folder / "two.txt").unlink()
    assert read() == (0, first[0] - 1, 1)


@pytest.mark.parametrize(
    ("reader", "arguments"),
    [
        ("llama_index.core:Nothing", "{}"),
        ("no_such_module:Reader", "{}"),
        ("llama_index.core:SimpleDirectoryReader", "not json"),
        ("llama_index.core:SimpleDirectoryReader", '{"unknown": 1}'),
    ],
)
def test_a_reader_that_cannot_be_used_says_so(reader: str, arguments: str) -> None:
    with pytest.raises(CommandFailed, match="cannot be used"):
        list(reader_documents(reader, arguments))
