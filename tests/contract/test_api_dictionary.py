"""The dictionary over HTTP: the caller's tenant's own, as JSON and CSV, audited, in force at the next search."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from core.tables import Tenant
from retrieval.other_words import OtherWords
from retrieval.spelling import Vocabulary
from tests.api_app import Api

PATH = "/v1/admin/dictionary"
GROUPS = [["有休", "年次有給休暇", "PTO"], ["KS-50", "圧力センサー"]]


def test_json_and_csv_put_the_same(api: Api, admin: TestClient) -> None:
    assert admin.get(PATH).json() == {"groups": [], "updated_at": None, "updated_by": None}
    put = admin.put(PATH, json={"groups": GROUPS})
    assert put.status_code == 200 and put.json()["groups"] == GROUPS and put.json()["updated_at"]
    text = admin.get(PATH, params={"format": "csv"})
    assert text.headers["content-type"] == "text/csv; charset=utf-8" and text.text.startswith("有休,年次有給休暇,PTO\n")
    assert admin.put(PATH, content=b"", headers={"Content-Type": "text/csv"}).json()["groups"] == []
    again = admin.put(PATH, content=text.content, headers={"Content-Type": "text/csv; charset=utf-8"})
    assert again.json()["groups"] == GROUPS == admin.get(PATH).json()["groups"]
    entries = [one for one in admin.get("/v1/admin/audit").json()["items"] if one["action"] == "dictionary.put"]
    assert entries[0]["detail"] == {"groups": 2, "groups_before": 0} and len(entries) == 3


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b'{"groups": [["alone"]]}', "application/json", 422, "dictionary_invalid"),
        (b'{"groups": "x"}', "application/json", 422, "invalid_request"),
        (b"{", "application/json", 400, "malformed_json"),
        (b'{"groups": [["a", "b"]], "more": 1}', "application/json", 422, "invalid_request"),
        (b'{"groups": [["a", "b\\u0000"]]}', "application/json", 422, "invalid_request"),
        ("有休,年休".encode("cp932"), "text/csv", 422, "dictionary_invalid"),
        (b"a,b\nalone\n", "text/csv", 422, "dictionary_invalid"),
        (b"a,b\n" * 5001, "text/csv", 413, "dictionary_too_large"),
    ],
)
def test_what_is_no_dictionary_is_refused(admin: TestClient, content: bytes, kind: str, status: int, code: str) -> None:
    answer = admin.put(PATH, content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert admin.get(PATH).json()["groups"] == []


def test_a_change_is_in_force_at_once_for_its_tenant_alone(
    api: Api, admin: TestClient, other_tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.other_words._REREAD_S", 0.0)
    words = OtherWords(api.database)
    assert not [one for one in words.of(api.tenant.id, "有休の圧力センサー") if "ks-50" in one.alternatives]
    admin.put(PATH, json={"groups": GROUPS})
    assert [one for one in words.of(api.tenant.id, "有休の圧力センサー") if "ks-50" in one.alternatives]
    assert not [one for one in words.of(other_tenant.id, "圧力センサー") if "ks-50" in one.alternatives]


def test_only_admins_read_or_write_it(api: Api) -> None:
    with api.client(api.key("query")) as client:
        assert client.get(PATH).status_code == client.put(PATH, json={"groups": []}).status_code == 403


def test_words_of_a_tenant_without_documents_are_corrected_to_nothing(api: Api) -> None:
    assert Vocabulary(api.database).corrections(api.tenant.id, "moniter") == []
