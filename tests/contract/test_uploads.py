"""What may come with an upload beside the file: encoding, password, names of any spelling; and what comes back."""

from __future__ import annotations

import io
import threading
import unicodedata
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.tenant_threads import TenantThreads
from core.access import Principal
from core.tables import DocumentGeneration, Tenant
from tests.api_app import Api, serve
from tests.locked_files import ASCII_PASSWORD, PASSWORD, locked_pdf, locked_word, locked_zip
from tests.server_processes import wait_for

NFC = unicodedata.normalize("NFC", "ガイドブック")
NFD = unicodedata.normalize("NFD", NFC)
assert NFC != NFD


def send(client: TestClient, data: bytes, name: str = "a.csv", **fields: str) -> httpx.Response:
    return client.post("/v1/documents", files={"file": (name, data)}, data=fields)


def generations(api: Api) -> list[DocumentGeneration]:
    with api.database.read() as session:
        rows = session.query(DocumentGeneration).order_by(DocumentGeneration.created_at, DocumentGeneration.generation)
        return list(rows)


def test_an_encoding_is_kept_with_the_generation(api: Api, admin: TestClient) -> None:
    data = "ﾃﾞ".encode("cp932")
    assert send(admin, data, encoding="Shift_JIS").status_code == 202
    assert [row.given_encoding for row in generations(api)] == ["cp932"]
    assert send(admin, data).json()["items"][0]["unchanged"]
    assert send(admin, data, encoding="windows-31j").json()["items"][0]["unchanged"]
    assert not send(admin, data, encoding="EUC-JP").json()["items"][0]["unchanged"]
    assert [row.given_encoding for row in generations(api)] == ["cp932", "euc_jp"]


@pytest.mark.parametrize("name", ["klingon", "idna", "hex", "../../x", "a" * 99, "utf-8\x01"])
def test_an_unknown_encoding_is_refused(api: Api, admin: TestClient, name: str) -> None:
    for answer in (
        send(admin, b"abc", encoding=name),
        admin.post("/v1/documents", json={"text": "abc", "encoding": name}),
    ):
        assert answer.status_code == 422
    assert send(admin, b"abc", encoding=name).json()["code"] == "encoding_unknown"
    assert generations(api) == []


def test_an_encoding_holds_for_members_of_an_archive_and_their_names(api: Api, admin: TestClient) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(zipfile.ZipInfo("見積書.csv"), "品".encode("euc_jp"))
    data = target.getvalue()
    utf_8, euc = "見積書.csv".encode(), "見積書.csv".encode("euc_jp").ljust(len("見積書.csv".encode()), b"_")
    data = data.replace(utf_8, euc)
    data = bytearray(data)
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = bytes(data).index(mark)
        data[at + flags + 1] &= ~0x08
    answer = send(admin, bytes(data), "a.zip", encoding="euc-jp")
    assert answer.status_code == 202
    (item,) = answer.json()["items"]
    assert item["document"]["filename"].startswith("見積書.csv")
    assert [row.given_encoding for row in generations(api)] == ["euc_jp"]


def test_text_in_json_is_stored_in_the_encoding_asked_for(api: Api, admin: TestClient) -> None:
    answer = admin.post("/v1/documents", json={"text": "見積", "filename": "a.txt", "encoding": "cp932"})
    document = answer.json()["items"][0]["document"]
    assert admin.get(f"/v1/documents/{document['id']}/content").content == "見積".encode("cp932")
    answer = admin.post("/v1/documents", json={"text": "가격", "filename": "a.txt", "encoding": "cp932"})
    assert (answer.status_code, answer.json()["code"]) == (422, "encoding_mismatch")


def test_a_password_opens_and_is_kept_nowhere(api: Api, admin: TestClient) -> None:
    word = locked_word()
    assert send(admin, word, "旅費.docx", password=PASSWORD).status_code == 202
    assert send(admin, word, "旅費.docx", password=PASSWORD).json()["items"][0]["unchanged"]
    assert send(admin, locked_pdf(), "fare.pdf", password=ASCII_PASSWORD).status_code == 202
    answer = send(
        admin, locked_zip({"a.txt": b"abc", "b.pdf": locked_pdf(password="another")}), "束.zip", password=PASSWORD
    )
    assert [item["document"]["filename"] for item in answer.json()["items"]] == ["a.txt", "b.pdf"]
    for row in generations(api)[:3]:
        stored = api.services.blobs.get(row.source_sha256)
        assert b"/Encrypt" not in stored and not stored.startswith(b"\xd0\xcf")
    files = [path for path in api.services.settings.data_dir.rglob("*") if path.is_file()]
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]


def test_a_wrong_password_stores_nothing_and_none_at_all_fails_the_document_later(api: Api, admin: TestClient) -> None:
    answer = send(admin, locked_word(), "旅費.docx", password="wrong-words")
    assert (answer.status_code, answer.json()["code"]) == (422, "wrong_password")
    assert "旅費.docx" in answer.json()["detail"] and "wrong-words" not in answer.text
    assert generations(api) == []
    assert send(admin, locked_word(), "旅費.docx").status_code == 202
    long = send(admin, locked_word(), "旅費.docx", password="x" * 300)
    assert (long.status_code, long.json()["code"]) == (422, "invalid_password")


def test_warnings_of_a_document(api: Api, admin: TestClient) -> None:
    document = send(admin, b"abc").json()["items"][0]["document"]
    assert document["warnings"] == []
    with api.database.write() as session:
        row = session.get_one(DocumentGeneration, (document["id"], 1))
        row.encoding = "cp932"
        row.quality = {
            "encoding_guessed": {"encoding": "cp932", "alternative": "euc_jp"},
            "replaced_characters": 2,
            "formula_without_value": 0,
            "struck_left_out": 6,
            "pages_not_read": [3, 5],
            "attachments": [{"name": "x.exe", "error": "unsupported_format"}, {"name": "y.txt", "error": None}],
        }
    shown = admin.get(f"/v1/documents/{document['id']}").json()
    assert shown["encoding"] == "cp932"
    assert [(item["code"], item["count"]) for item in shown["warnings"]] == [
        ("encoding_guessed", None),
        ("replaced_characters", 2),
        ("struck_left_out", 6),
        ("pages_not_read", 2),
        ("attachments_not_read", 1),
    ]
    assert "euc_jp" in shown["warnings"][0]["detail"] and "3, 5" in shown["warnings"][3]["detail"]
    assert admin.get("/v1/documents").json()["items"][0]["warnings"] == shown["warnings"]


@pytest.mark.parametrize(("written", "asked"), [(NFC, NFD), (NFD, NFC)])
def test_each_name_is_found_in_either_spelling(api: Api, admin: TestClient, written: str, asked: str) -> None:
    key = api.key("ingest", "query", groups=[asked])
    body = {"text": "本文", "filename": f"{written}.txt", "collection": written, "external_id": written}
    sent = admin.post("/v1/documents", json={**body, "groups": [written]}).json()["items"][0]["document"]
    assert sent["filename"] == f"{NFC}.txt" and sent["collection"] == sent["external_id"] == NFC
    assert sent["groups"] == [NFC]
    for params in ({"collection": asked}, {"external_id": asked}):
        found = admin.get("/v1/documents", params=params).json()["items"]
        assert [item["id"] for item in found] == [sent["id"]]
    assert api.client(key).get(f"/v1/documents/{sent['id']}").status_code == 200
    again = {**body, "filename": f"{asked}.txt", "collection": asked, "external_id": asked, "groups": [asked]}
    assert admin.post("/v1/documents", json=again).json()["items"][0]["unchanged"]
    answer = admin.post("/v1/search", json={"query": "本文", "collection": asked})
    assert answer.status_code == 200
    assert admin.post("/v1/ask", json={"question": "本文?", "collection": asked}).status_code == 200


@pytest.mark.parametrize("charset", ["idna", "punycode", "undefined", "hex", "unicode_escape", "x" * 99, "\x01"])
def test_odd_charsets_of_names_are_never_a_500(admin: TestClient, charset: str) -> None:
    boundary = "frontier"
    disposition = f'form-data; name="file"; filename="a.txt"; filename*={charset}\'\'%93%8c.txt'
    part = f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\nabc\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    assert admin.post("/v1/documents", content=part, headers={"Content-Type": kind}).status_code == 202
    odd = admin.post("/v1/documents", content=part, headers={"Content-Type": f"{kind}; charset={charset}"})
    assert (odd.status_code, odd.json()["code"]) == (400, "malformed_body")
    headers = {"Content-Disposition": f"attachment; filename*={charset}''%93%8c.jsonl"}
    assert admin.post("/v1/datasets", content=b"{}", headers=headers).status_code < 500


def test_uploads_of_one_tenant_hold_its_share_of_the_threads(
    api: Api, other_tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bucket is slow: whoever uploads waits, and who uploads most leaves threads to the others."""
    accept, gate, held = api.services.ingest.accept, threading.Event(), []
    api.app.state.storing = TenantThreads(3, 5)

    def slow(principal: Principal, *rest: Any, **more: Any) -> Any:
        if principal.tenant_id != other_tenant.id:
            held.append(principal)
            assert gate.wait(60)
        return accept(principal, *rest, **more)

    monkeypatch.setattr(api.services.ingest, "accept", slow)
    mine, theirs = {"Authorization": f"Bearer {api.admin}"}, api.key("ingest", tenant=other_tenant)
    limits = httpx.Limits(max_connections=None)
    with (
        serve(api.app) as url,
        httpx.Client(base_url=url, timeout=60, limits=limits) as client,
        ThreadPoolExecutor(60) as pool,
    ):

        def upload(number: int, headers: dict[str, str]) -> int:
            files = {"file": (f"{number}.txt", b"text %d" % number)}
            return client.post("/v1/documents", files=files, headers=headers, timeout=30).status_code

        try:
            sent = [pool.submit(upload, number, mine) for number in range(40)]
            wait_for(lambda: api.app.state.metrics.in_flight._value.get() == 40 and len(held) >= 3, 8, "uploads")
            assert [upload(number, theirs) for number in range(2)] == [202, 202]
            assert len(held) == 3
        finally:
            gate.set()
        assert {one.result() for one in sent} == {202}
