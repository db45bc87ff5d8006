"""The edge against its callers: rates, concurrency, rotation, tokens, headers, and what logs must not hold."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from api.oidc import OidcVerifier
from core import log
from core.database import Database
from core.errors import InvalidInput, Unavailable
from core.outbound import fetch_json, judged_address
from core.rates import Bucket, RateLimiter
from core.settings import HttpSettings, OidcSettings, Settings
from tests.api_app import Api, build_api, serve
from tests.conftest import RedisServer

Build = Callable[..., Api]


@pytest.fixture
def build(settings: Settings, database: Database) -> Build:
    def make(redis_url: str | None = None, **http: Any) -> Api:
        changed = settings.model_copy(update={"http": HttpSettings(**http)})
        return build_api(changed, database, redis_url=redis_url)

    return make


def test_rates_are_counted_over_all_processes_and_say_when_to_come_back(redis_server: RedisServer) -> None:
    limits = [Bucket("key", "k1", 6), Bucket("tenant", "t", 100)]
    one, other = RateLimiter(redis_server.url), RateLimiter(redis_server.url)
    given = [limiter.take(limits)[0] for limiter in (one, other) * 3]
    assert given == [True] * 6
    allowed, standings = one.take(limits)
    assert not allowed and standings[0].remaining == 0 and 1 <= standings[0].retry_after_s <= 10
    assert standings[1].remaining == 94, "a refused request costs the tenant nothing"
    assert other.take([Bucket("key", "k2", 6), limits[1]])[0], "another key of the tenant has its own bucket"
    redis_server.stop()
    allowed, standings = one.take(limits)
    assert allowed and standings[0].remaining == 5, "without Redis each process counts for itself"
    assert [one.take(limits)[0] for _ in range(6)] == [True] * 5 + [False]
    one.close()
    other.close()


def test_a_limited_key_is_told_so_before_its_body_is_read(build: Build, redis_url: str) -> None:
    api = build(redis_url, requests_per_minute_key=3)
    key = api.key("query")
    with api.client(key) as client:
        answers = [client.post("/v1/ask", json={"question": "How many?"}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3
        assert answers[0].headers["ratelimit-policy"] == '"key";q=3;w=60'
        assert answers[0].headers["ratelimit-remaining"] == "2"
        refused = client.post("/v1/ask", content=b"{" * 100)
        assert refused.status_code == 429 and refused.json()["code"] == "rate_limited"
        assert 1 <= int(refused.headers["retry-after"]) <= 20 and refused.headers["ratelimit"].startswith(
            '"key";r=0;t='
        )
        chat = client.post("/v1/chat/completions", json={})
        assert chat.status_code == 429 and chat.json()["error"]["type"] == "rate_limit_error"
    with api.client() as other:
        assert other.get("/v1/documents").status_code == 200


def test_a_key_holds_so_many_places_until_its_streams_end(build: Build) -> None:
    api = build(concurrent_requests_key=2)
    api.engine.gate = threading.Event()
    headers = {"Authorization": f"Bearer {api.admin}"}
    body = {"question": "How many?", "stream": True}
    with serve(api.app) as url, httpx.Client(base_url=url, headers=headers, timeout=20) as client:
        with (
            client.stream("POST", "/v1/ask", json=body) as first,
            client.stream("POST", "/v1/ask", json=body) as second,
        ):
            assert first.status_code == second.status_code == 200
            refused = client.get("/v1/documents")
            assert refused.status_code == 429 and refused.json()["code"] == "too_many_at_once"
            assert refused.headers["retry-after"] == "1"
            api.engine.gate.set()
            assert b"event: done" in first.read() and b"event: done" in second.read()
        with ThreadPoolExecutor(2) as pool:
            deadline = time.monotonic() + 10
            while client.get("/v1/documents").status_code != 200:
                assert time.monotonic() < deadline, "the places were not given back"
            assert list(pool.map(lambda _: client.get("/v1/documents").status_code, range(2))) == [200, 200]


def test_a_rotated_key_overlaps_with_its_successor(api: Api) -> None:
    reader = api.key("query", groups=["board"])
    with api.client() as admin:
        old = next(key for key in admin.get("/v1/admin/keys").json()["items"] if key["scopes"] == ["query"])
        made = admin.post(f"/v1/admin/keys/{old['id']}/rotate", json={"overlap_s": 3600})
        assert made.status_code == 201 and made.json()["id"] != old["id"]
        assert (made.json()["scopes"], made.json()["groups"], made.json()["name"]) == (["query"], ["board"], "test")
        assert made.json()["replaces"]["id"] == old["id"] and made.json()["replaces"]["expires_at"] is not None
        successor = {"Authorization": f"Bearer {made.json()['secret']}"}
        for headers in (reader, successor):
            assert api.client(headers).post("/v1/ask", json={"question": "How?"}).status_code == 200
        at_once = admin.post(f"/v1/admin/keys/{made.json()['id']}/rotate", json={"overlap_s": 0})
        assert at_once.status_code == 201
        assert api.client(successor).post("/v1/ask", json={"question": "How?"}).status_code == 401
        again = admin.post(f"/v1/admin/keys/{made.json()['id']}/rotate", json={})
        assert again.status_code == 409 and again.json()["code"] == "key_ended"
        assert admin.post("/v1/admin/keys/key_nowhere/rotate", json={}).status_code == 404
        assert "key.rotate" in {row["action"] for row in admin.get("/v1/admin/audit").json()["items"]}
    assert api.client(reader).post(f"/v1/admin/keys/{old['id']}/rotate", json={}).status_code == 403


SIGNING = ECKey.generate_key("P-256", {"kid": "one"})
ISSUER = "https://login.example"


def token(key: ECKey = SIGNING, kid: str = "one", alg: str = "ES256", **claims: Any) -> str:
    now = int(time.time())
    given = {"iss": ISSUER, "aud": "tsumugi", "sub": "u1", "exp": now + 60, "scope": "query", "groups": ["board"]}
    return jwt.encode({"alg": alg, "kid": kid}, {**given, **claims}, key)


def test_tokens_of_the_issuer_are_taken_and_forged_ones_are_not(api: Api) -> None:
    fetched: list[str] = []

    def fetch(url: str) -> Any:
        fetched.append(url)
        if url.endswith("openid-configuration"):
            return {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/keys"}
        return KeySet([SIGNING]).as_dict(private=False)

    oidc = OidcSettings(issuer=ISSUER, audience="tsumugi")
    http = api.services.settings.http.model_copy(update={"oidc": oidc})
    api.services.settings = api.services.settings.model_copy(update={"http": http})
    api.services.oidc = OidcVerifier(oidc, api.database, fetch)

    def status(given: str) -> int:
        return api.client({"Authorization": f"Bearer {given}"}).post("/v1/ask", json={"question": "How?"}).status_code

    assert status(token()) == 200
    assert api.search.seen[-1].groups == {"board", "*"}
    assert fetched == [f"{ISSUER}/.well-known/openid-configuration", f"{ISSUER}/keys"]
    other = ECKey.generate_key("P-256", {"kid": "one"})
    unsigned = "eyJhbGciOiJub25lIn0." + token().split(".")[1] + "."
    for bad in (
        token(other),
        token(other, kid="two"),
        unsigned,
        token(aud="another"),
        token(iss="https://evil.example"),
        token(exp=int(time.time()) - 120),
        token(scope=""),
        token(scope="everything"),
        token(sub=None),
        "a.b.c",
        token() + "x" * 20_000,
    ):
        assert status(bad) == 401
    assert len(fetched) == 2, "a forged key id must not make the service fetch again and again"
    assert api.client({"Authorization": f"Bearer {token()}"}).get("/v1/admin/keys").status_code == 403
    mapped = oidc.model_copy(
        update={"scope_of": {"boss": "admin"}, "scopes_claim": "realm.roles", "tenant_claim": "org"}
    )
    api.services.oidc = OidcVerifier(mapped, api.database, fetch)
    assert status(token(realm={"roles": ["boss"]}, org="default")) == 200
    assert status(token(realm={"roles": ["boss"]}, org="nowhere")) == 401


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://login.example/keys", "93.184.216.34"),
        ("https://login.example/keys", "127.0.0.1"),
        ("https://login.example/keys", "10.1.2.3"),
        ("https://login.example/keys", "169.254.169.254"),
        ("https://login.example/keys", "::1"),
        ("https://login.example/keys", "::ffff:192.168.0.1"),
        ("https://login.example/keys", "100.64.0.1"),
        ("https://login.example/keys", "64:ff9b::7f00:1"),
        ("https://login.example/keys", "64:ff9b::10.0.0.1"),
        ("https://login.example/keys", "64:ff9b:1::a00:1"),
        ("https://login.example/keys", "fec0::1"),
        ("https://login.example/keys", "2002:7f00:1::1"),
        ("https://login.example/keys", "2002:5db8:d822::1"),
        ("https://login.example/keys", "::10.0.0.1"),
        ("https://login.example/keys", "2001:0:5db8:d822::1"),
        ("https://user:word@login.example/keys", "93.184.216.34"),
        ("file:///etc/passwd", "93.184.216.34"),
        ("https://[bad", "93.184.216.34"),
    ],
)
def test_urls_into_the_own_network_are_not_fetched(url: str, address: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        judged_address(url, resolver=lambda _host, _port: [address])
    assert refused.value.code == "url_refused"


def test_a_fetch_goes_to_the_judged_address_and_is_bounded() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path == "/moved":
            return httpx.Response(302, headers={"location": "http://169.254.169.254/"})
        return httpx.Response(200, json={"a": "x" * (5_000 if request.url.path == "/large" else 1)})

    def fetch(path: str) -> Any:
        return fetch_json(
            f"https://login.example{path}",
            max_bytes=1_000,
            resolver=lambda _host, _port: ["93.184.216.34"],
            transport=httpx.MockTransport(answer),
        )

    assert fetch("/keys") == {"a": "x"}
    assert seen[0].url.host == "93.184.216.34" and seen[0].headers["host"] == "login.example"
    assert seen[0].extensions["sni_hostname"] == "login.example"
    for path in ("/moved", "/large"):
        with pytest.raises(Unavailable) as failed:
            fetch(path)
        assert failed.value.code == "fetch_failed"
    assert len(seen) == 3


def test_no_route_takes_a_url(api: Api) -> None:
    """Nothing that a caller sends is fetched; a field for an address would need the guard of `core.outbound`."""
    document = api.app.openapi()
    fields = {
        name
        for schema in document["components"]["schemas"].values()
        for name in schema.get("properties", {})
        if {"url", "uri", "webhook", "callback", "endpoint", "href"} & set(name.lower().split("_"))
    }
    assert fields == set()


def test_pages_of_other_origins_get_nothing_unless_listed(build: Build) -> None:
    ask = {"Origin": "https://intranet.example", "Access-Control-Request-Method": "POST"}
    with build().client() as client:
        assert "access-control-allow-origin" not in client.get("/v1/documents", headers=ask).headers
        assert "access-control-allow-origin" not in client.options("/v1/ask", headers=ask).headers
    with build(cors_origins=["https://intranet.example"]).client() as client:
        allowed = client.options("/v1/ask", headers={**ask, "Access-Control-Request-Headers": "authorization"})
        assert allowed.headers["access-control-allow-origin"] == "https://intranet.example"
        for method in ("PUT", "PATCH", "DELETE"):
            asked = client.options("/v1/ask", headers={**ask, "Access-Control-Request-Method": method})
            assert asked.status_code == 200 and method in asked.headers["access-control-allow-methods"]
        other = client.get("/v1/documents", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
        assert "access-control-allow-credentials" not in allowed.headers


def test_a_slash_too_many_is_not_found_and_leads_nowhere(api: Api) -> None:
    with api.client({"Host": "evil.example"}) as client:
        answer = client.get("/v1/documents/", follow_redirects=False)
    assert answer.status_code == 404 and "location" not in answer.headers


def test_public_addresses_are_taken_in_every_spelling() -> None:
    for address in ("93.184.216.34", "2606:4700::1111", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"):
        assert judged_address("https://a.example/", resolver=lambda _h, _p, found=address: [found]) == address


def test_the_page_of_routes_runs_no_script_and_names_every_route(api: Api) -> None:
    with api.client({}) as client:
        page = client.get("/docs")
        document = client.get("/openapi.json").json()
    assert page.status_code == 200 and "<script" not in page.text and "https://" not in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert all(path in page.text for path in document["paths"])
    for header in ("x-content-type-options", "x-frame-options", "cross-origin-resource-policy", "permissions-policy"):
        assert header in page.headers


def test_no_secret_reaches_a_log(api: Api) -> None:
    stream = io.StringIO()
    log.configure("DEBUG", json=True, stream=stream)
    api.engine.error = RuntimeError(f"the engine saw {api.admin}")
    forged, unknown = token(), "tsu_" + "a" * 43
    for secret in (api.admin, forged, unknown, f"{api.admin}x", "Basic dXNlcjpwYXNzd29yZA=="):
        with api.client({"Authorization": f"Bearer {secret}"}) as client:
            client.post(f"/v1/ask?api_key={secret}", json={"question": "How?"})
            client.post("/v1/ask", json={"question": "How?"})
            client.get(f"/v1/documents/{secret}")
            made = client.post("/v1/admin/keys", json={"name": "n", "scopes": ["query"]})
            if made.status_code == 201:
                assert made.json()["secret"] not in stream.getvalue()
    written = stream.getvalue()
    log.configure("CRITICAL", json=True)
    assert "unexpected error" in written and len(written) > 2_000
    for secret in (api.admin, forged, unknown, forged.split(".")[2]):
        assert secret not in written
