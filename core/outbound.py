"""URLs that this service is told to fetch: which may be, and a client that cannot be led elsewhere.

The host is resolved once, every address is judged, and the connection goes to the judged address: a name that resolves
to another address at the second look (DNS rebinding) gains nothing. Redirects are not followed, answers are bounded.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from core.errors import InvalidInput, Unavailable

Resolve = Callable[[str, int], list[str]]
TIMEOUT_S: Final = 5.0
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""An IPv4 address stands in its last 32 bits, which a gateway of the own network calls."""
_TUNNELS: Final = tuple(map(ipaddress.IPv6Network, ("::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16", "fec0::/10")))
"""IPv4-compatible, local NAT64, Teredo, 6to4, site-local: they lead where an address inside them says, or nowhere."""


def resolve(host: str, port: int) -> list[str]:
    """Addresses of a host.

    Raises:
        Unavailable: `host_not_found`.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"the host {host} cannot be resolved", code="host_not_found") from error
    return [str(entry[4][0]) for entry in found]


def judged_address(url: str, *, allow_private: bool = False, resolver: Resolve = resolve) -> str:
    """The address to connect to for a URL.

    allow_private: take plain http and addresses inside the own network, where an operator has said so.

    Raises:
        InvalidInput: `url_refused`: no https, credentials in it, or any of its addresses is not public.
        Unavailable: `host_not_found`.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidInput("this is no URL", code="url_refused") from error
    if parts.scheme != "https" and not (allow_private and parts.scheme == "http"):
        raise InvalidInput("only https URLs are fetched", code="url_refused")
    if not host or parts.username is not None or parts.password is not None:
        raise InvalidInput("the URL must name a host and hold no credentials", code="url_refused")
    addresses = resolver(host, port or (443 if parts.scheme == "https" else 80))
    for address in addresses:
        if not allow_private and not _is_public(address):
            raise InvalidInput(f"{host} is not a public address", code="url_refused")
    if not addresses:
        raise Unavailable(f"the host {host} cannot be resolved", code="host_not_found")
    return addresses[0]


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            parsed = parsed.ipv4_mapped
        elif parsed in _NAT64:
            parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFF_FFFF)
        elif parsed.is_site_local or any(parsed in network for network in _TUNNELS):
            return False
    return parsed.is_global and not parsed.is_multicast


def fetch_json(
    url: str,
    *,
    max_bytes: int,
    allow_private: bool = False,
    resolver: Resolve = resolve,
    transport: httpx.BaseTransport | None = None,
) -> Any:
    """A JSON document.

    Raises:
        InvalidInput: `url_refused`.
        Unavailable: `host_not_found`, or `fetch_failed` for anything but a JSON answer of at most `max_bytes`.
    """
    address = judged_address(url, allow_private=allow_private, resolver=resolver)
    target = httpx.URL(url)
    headers = {"Host": target.netloc.decode("ascii"), "Accept": "application/json"}
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False, transport=transport) as client,
            client.stream(
                "GET",
                target.copy_with(host=address),
                headers=headers,
                # The certificate is checked against the name, though the connection goes to the address.
                extensions={"sni_hostname": target.host},
            ) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise Unavailable(f"{target.host} answered {response.status_code}", code="fetch_failed")
            body = bytearray()
            for piece in response.iter_bytes():
                body += piece
                if len(body) > max_bytes:
                    raise Unavailable(f"{target.host} answered with more than {max_bytes} bytes", code="fetch_failed")
            return json.loads(bytes(body))
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable(f"{target.host} cannot be read: {type(error).__name__}", code="fetch_failed") from error
