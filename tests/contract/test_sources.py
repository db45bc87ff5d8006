"""Sources kept in line with a service over HTTP: unchanged skipped, changed replaced, gone deleted."""

from __future__ import annotations

import json
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli import buckets
from cli.buckets import bucket_documents
from cli.client import Client
from cli.main import app
from cli.output import CommandFailed
from cli.sources import FeedReport, feed_documents, folder_documents, known_documents, reader_documents
from core.s3 import open_s3_client
from core.settings import BlobSettings, S3Connection, Settings
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


def test_an_archive_in_a_folder_is_followed_by_its_files(client: Client, folder: Path) -> None:
    def pack(**files: str) -> None:
        with zipfile.ZipFile(folder / "forms.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(f"{name}.txt", text)

    pack(one="First form.", two="Second form.")
    assert sync(client, folder) == (5, 0, 0)
    assert {name for name in known_documents(client, "steps:", None) if "forms" in name} == {
        "steps:forms.zip!/one.txt",
        "steps:forms.zip!/two.txt",
    }
    assert sync(client, folder) == (0, 4, 0), "its files are not taken for gone"
    pack(one="First form, new.")
    assert sync(client, folder) == (1, 3, 1)
    (folder / "forms.zip").unlink()
    assert sync(client, folder) == (0, 3, 1)


@pytest.fixture
def bucket(s3_settings: BlobSettings) -> Iterator[tuple[Any, str, Settings]]:
    """(client, bucket, settings of the command) of an empty bucket on a real server."""
    store = open_s3_client(s3_settings, "a test")
    connection = S3Connection(**{name: getattr(s3_settings, name) for name in S3Connection.model_fields})
    assert s3_settings.bucket is not None
    yield store, s3_settings.bucket, Settings(s3=connection)
    store.close()


def test_a_bucket_is_followed_without_reading_what_has_not_changed(
    client: Client, bucket: tuple[Any, str, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name, settings = bucket
    files = {
        "規程/休暇.md": "# 休暇\n\n12日です。",
        "規程/a.txt": "The gate opens at seven.",
        "規程/b.txt": "Ring twice.",
    }
    for key, text in files.items():
        store.put_object(Bucket=name, Key=key, Body=text.encode())
    store.put_object(Bucket=name, Key="規程/folder/", Body=b"")
    store.put_object(Bucket=name, Key="規程/.hidden", Body=b"x")
    store.put_object(Bucket=name, Key="規程-old/c.txt", Body=b"another folder")
    reads: list[str] = []
    reader = buckets._reader

    def counted(*arguments: Any) -> Any:
        read = reader(*arguments)
        return lambda: (reads.append(arguments[2]), read())[1]

    monkeypatch.setattr(buckets, "_reader", counted)

    def follow() -> tuple[int, int, int]:
        reads.clear()
        documents = bucket_documents(f"s3://{name}/規程", settings)
        return counts(feed_documents(client, documents, source="bucket", delete_gone=True))

    assert follow() == (3, 0, 0)
    assert set(known_documents(client, "bucket:", None)) == {"bucket:休暇.md", "bucket:a.txt", "bucket:b.txt"}
    assert follow() == (0, 3, 0) and not reads, "ETag and size say enough"
    store.put_object(Bucket=name, Key="規程/a.txt", Body=b"The gate opens at eight.")
    store.delete_object(Bucket=name, Key="規程/b.txt")
    assert follow() == (1, 1, 1) and reads == ["規程/a.txt"]


def test_a_bucket_run_that_was_interrupted_goes_on_and_lost_objects_are_reported(
    client: Client, bucket: tuple[Any, str, Settings]
) -> None:
    store, name, settings = bucket
    for number in range(4):
        store.put_object(Bucket=name, Key=f"{number}.txt", Body=f"Text {number}.".encode())

    def stop_after_two() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt

    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        feed_documents(client, bucket_documents(f"s3://{name}", settings), source="b", on_each=stop_after_two)
    documents = list(bucket_documents(f"s3://{name}", settings))
    store.delete_object(Bucket=name, Key="3.txt")  # between the listing and the reading
    report = feed_documents(client, documents, source="b", delete_gone=True)
    assert counts(report) == (1, 2, 0)
    assert [(item["key"], item["error"]["code"]) for item in report.refused] == [("3.txt", "source_unreadable")]
    small = settings.model_copy(update={"http": settings.http.model_copy(update={"max_upload_bytes": 3})})
    store.put_object(Bucket=name, Key="0.txt", Body=b"changed")
    report = feed_documents(client, bucket_documents(f"s3://{name}", small), source="b", delete_gone=True)
    assert [item["error"]["code"] for item in report.refused] == ["too_large"]
    assert "b:0.txt" in known_documents(client, "b:", None), "what could not be read is not deleted"


def test_a_bucket_that_is_not_there_deletes_nothing(client: Client, bucket: tuple[Any, str, Settings]) -> None:
    store, name, settings = bucket
    store.put_object(Bucket=name, Key="a.txt", Body=b"text")
    feed_documents(client, bucket_documents(f"s3://{name}", settings), source="b")
    with pytest.raises(CommandFailed, match="NoSuchBucket"):
        feed_documents(client, bucket_documents("s3://no-such-bucket", settings), source="b", delete_gone=True)
    for wrong in ("s3://", "http://b/x", "s3:///x", "s3://b?x=1"):
        with pytest.raises(CommandFailed, match="no address of a bucket"):
            buckets.bucket_name(wrong)
    assert len(known_documents(client, "b:", None)) == 1


def test_ingest_and_sync_take_readers_and_buckets(
    api: Api, api_url: str, folder: Path, bucket: tuple[Any, str, Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, name, settings = bucket
    store.put_object(Bucket=name, Key="a.txt", Body=b"text")
    monkeypatch.setenv("TSUMUGI_URL", api_url)
    monkeypatch.setenv("TSUMUGI_API_KEY", api.admin)
    monkeypatch.setenv("TSUMUGI_S3__ENDPOINT_URL", str(settings.s3.endpoint_url))
    monkeypatch.setenv("TSUMUGI_S3__ACCESS_KEY_ID", "test")
    monkeypatch.setenv("TSUMUGI_S3__SECRET_ACCESS_KEY", "test")
    arguments = json.dumps({"input_dir": str(folder), "recursive": True})
    reader = ["--reader", "llama_index.core:SimpleDirectoryReader", "--reader-args", arguments, "--source", "notes"]
    runner = CliRunner()
    for command, expected in (
        (["ingest", *reader, "--no-wait", "--json"], {"source": "notes", "unchanged": 0}),
        (["ingest", *reader, "--no-wait", "--json"], {"source": "notes", "uploaded": 0}),
        (["sync", f"s3://{name}", "--no-wait", "--json"], {"source": name, "uploaded": 1}),
        (["sync", f"s3://{name}", "--no-wait", "--json"], {"source": name, "unchanged": 1}),
    ):
        done = runner.invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
        assert expected.items() <= json.loads(done.stdout).items()
    with zipfile.ZipFile(folder / "two.zip", "w") as archive:
        archive.writestr("x.txt", "One of two.")
        archive.writestr("y.txt", "Two of two.")
    done = runner.invoke(app, ["ingest", str(folder / "two.zip"), "--no-wait", "--json"])
    assert [item["document"]["filename"] for item in json.loads(done.stdout)["items"]] == ["x.txt", "y.txt"]
    for command in (["ingest"], ["ingest", str(folder), *reader], ["sync"], ["sync", "/no/such/folder"]):
        failure = runner.invoke(app, command).exception
        assert isinstance(failure, CommandFailed) and failure.exit_code == 2, command


def test_unchanged_documents_get_the_groups_and_the_collection_that_a_run_names(client: Client, folder: Path) -> None:
    with zipfile.ZipFile(folder / "pack.zip", "w") as pack:
        pack.writestr("inside.md", "# 金庫\n\n金庫の番号は部長が知る。")

    def run(**options: Any) -> tuple[int, int, int]:
        report = feed_documents(client, folder_documents(folder), source="steps", delete_gone=True, **options)
        assert not report.deleted and not report.refused
        return len(report.uploaded), report.unchanged, len(report.updated)

    def groups(collection: str | None = None) -> set[tuple[str, ...]]:
        return {tuple(one["groups"]) for one in known_documents(client, "steps:", collection).values()}

    assert run() == (4, 0, 0) and groups() == {()}
    assert run(groups=["hr", "board"]) == (0, 0, 4) and groups() == {("board", "hr")}
    assert run(groups=["board", "hr"]) == (0, 4, 0)
    assert run() == (0, 4, 0) and groups() == {("board", "hr")}
    assert run(groups=[]) == (0, 0, 4) and groups() == {()}
    assert run(collection="rules", move_from="default") == (0, 4, 4)
    assert not known_documents(client, "steps:", None) and len(known_documents(client, "steps:", "rules")) == 4
    assert run(collection="rules", move_from="default") == (0, 4, 0)


def test_names_of_a_mac_are_followed_as_those_of_others(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    (folder / unicodedata.normalize("NFD", "ガイドブック.txt")).write_text("本文", encoding="utf-8")
    assert sync(client, folder) == (1, 0, 0)
    assert set(known_documents(client, "steps:", None)) == {unicodedata.normalize("NFC", "steps:ガイドブック.txt")}
    assert sync(client, folder) == (0, 1, 0)
