"""Bad input is answered with a coded problem, or ends as a failed document with a code. Nothing else is lost by it."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import httpx
import pytest

from cli.client import ApiProblem, Client
from cli.service_process import ServiceProcess
from tests.e2e.conftest import upload_text


def problem_of(client: Client, method: str, path: str, **arguments: Any) -> ApiProblem:
    with pytest.raises(ApiProblem) as caught:
        client.request(method, path, **arguments)
    assert caught.value.code
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(caught.value.problem)
    return caught.value


def ingest_error(client: Client, filename: str, data: bytes) -> str:
    answer = client.post("/v1/documents", files={"file": (filename, data)})
    item = answer["items"][0]
    job = client.follow_job(item["job"]["id"], timeout_s=60)
    assert job["status"] == "failed"
    document = client.get(f"/v1/documents/{item['document']['id']}")
    assert document["status"] == "failed"
    code: str = document["error"]["code"]
    return code


def encrypted_pdf() -> bytes:
    from reportlab.lib.pdfencrypt import StandardEncryption
    from reportlab.pdfgen import canvas

    buffer = io.BytesIO()
    page = canvas.Canvas(buffer, encrypt=StandardEncryption("user", "owner", strength=128))
    page.drawString(72, 720, "hidden")
    page.save()
    return buffer.getvalue()


def zip_of(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)
    return buffer.getvalue()


def test_files_that_cannot_be_read(client: Client) -> None:
    for filename in ("empty.txt", "empty.pdf"):
        refused = problem_of(client, "POST", "/v1/documents", files={"file": (filename, b"")})
        assert (refused.status, refused.code) == (422, "empty_file") or refused.code == "empty_file"
    assert "encrypted" in ingest_error(client, "locked.pdf", encrypted_pdf())
    assert ingest_error(client, "zip.pdf", zip_of(a__txt=b"x")) == "not_a_pdf"


def test_an_upload_over_the_limit_is_413(service: ServiceProcess) -> None:
    sent = 0

    def body() -> Any:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="big.txt"\r\n\r\n'
        for _ in range(300):
            sent += 1
            yield b"x" * 2**20
        yield b"\r\n--b--\r\n"

    headers = {"Authorization": f"Bearer {service.admin_key}", "Content-Type": "multipart/form-data; boundary=b"}
    try:
        answer = httpx.post(f"{service.url}/v1/documents", content=body(), headers=headers, timeout=120)
    except httpx.WriteError:  # the service answered and closed while we were still sending
        assert sent < 300
    else:
        assert answer.status_code == 413
        assert answer.json()["code"] == "too_large"


def test_a_bad_row_is_named_by_its_line(client: Client) -> None:
    good = json.dumps({"instruction": "Name a colour.", "input": "", "output": "Green."})
    data = f"{good}\n{{not json\n{good.replace('Green', 'Blue')}\n".encode()
    dataset = client.post("/v1/datasets", files={"file": ("rows.jsonl", data)})
    assert dataset["row_count"] == 2
    assert dataset["invalid_count"] == 1
    assert json.dumps(dataset).count('"line": 2') == 1


def test_bad_requests(client: Client, service: ServiceProcess) -> None:
    headers = {"Content-Type": "application/json"}
    assert problem_of(client, "POST", "/v1/ask", content=b'{"question": ', headers=headers).status in {400, 422}
    assert problem_of(client, "POST", "/v1/ask", json={"question": "a" * 100_000}).status in {400, 413, 422}
    assert problem_of(client, "POST", "/v1/ask", json={"question": ""}).status == 422
    body = {"model": "tsumugi:nobody@v9", "messages": [{"role": "user", "content": "hi"}]}
    refused = httpx.post(
        f"{service.url}/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {service.admin_key}"}
    )
    assert refused.status_code == 404


def test_adapters_that_must_not_be_loaded(client: Client) -> None:
    path = "/v1/admin/adapters/foreign/versions"
    config = json.dumps({"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}).encode()
    pickled = zip_of(adapter_config__json=config, adapter_model__bin=b"\x80\x04.")
    assert problem_of(client, "POST", path, files={"file": ("a.zip", pickled)}).code == "adapter_unsafe_file"
    refused = problem_of(client, "POST", path, files={"file": ("a.zip", other_base(config))})
    assert refused.code.startswith("adapter_")
    assert "foreign" not in {family["family"] for family in client.items("/v1/admin/adapters")}


def other_base(config: bytes) -> bytes:
    import torch
    from safetensors.torch import save

    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = save({f"{prefix}.lora_A.weight": torch.ones(4, 2048), f"{prefix}.lora_B.weight": torch.ones(2048, 4)})
    return zip_of(adapter_config__json=config, adapter_model__safetensors=weights)


def test_nothing_was_lost(client: Client) -> None:
    item = upload_text(client, "The clock tower was built in 1911.", "clock.txt")
    assert client.follow_job(item["job"]["id"], timeout_s=60)["status"] == "succeeded"
    assert "1911" in client.post("/v1/ask", {"question": "When was the clock tower built?"})["answer"]
