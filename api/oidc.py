"""Bearer tokens of an OpenID Connect provider, as an alternative to API keys. Off unless `http.oidc` is set.

A token is good when its signature, issuer, audience and times are; what it may do comes from its claims through the
configured mapping. A tenant is never made by a token: it must exist.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from sqlalchemy import or_, select

from core.access import Principal
from core.database import Database
from core.errors import InvalidInput, TsumugiError, Unauthenticated, Unavailable
from core.outbound import fetch_json
from core.settings import OidcSettings
from core.tables import Tenant
from core.types import Scope

log = structlog.stdlib.get_logger(__name__)

_MAX_TOKEN_CHARS: Final = 16_384
_MAX_JWKS_BYTES: Final = 256 * 1024
_REFETCH_S: Final = 30.0
"""A token signed by an unknown key has the keys fetched anew, at most so often: forged key ids are no reason to."""

Fetch = Callable[[str], Any]


class OidcVerifier:
    """Tokens to principals. Thread-safe."""

    def __init__(self, settings: OidcSettings, db: Database, fetch: Fetch | None = None) -> None:
        self._settings = settings
        self._db = db
        self._fetch = fetch or (
            lambda url: fetch_json(url, max_bytes=_MAX_JWKS_BYTES, allow_private=settings.allow_private_issuer)
        )
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched_at = 0.0

    def authenticate(self, token: str) -> Principal:
        """The caller that a token names.

        Raises:
            Unauthenticated: anything about the token is wrong, in the same words; the reason is logged.
            Unavailable: the issuer's keys cannot be fetched and none are known.
        """
        try:
            claims = self._claims(token)
            return self._principal(claims)
        except (JoseError, ValueError, KeyError, TypeError) as error:
            log.info("oidc.refused", reason=type(error).__name__, detail=str(error)[:200])
            raise Unauthenticated("this token is not accepted", code="token_refused") from error

    def _claims(self, token: str) -> Mapping[str, Any]:
        if len(token) > _MAX_TOKEN_CHARS:
            raise ValueError("the token is too long")
        settings = self._settings
        try:
            decoded = jwt.decode(token, self._key_set(), algorithms=list(settings.algorithms))
        except (JoseError, ValueError):
            if not self._forget_old_keys():
                raise
            decoded = jwt.decode(token, self._key_set(), algorithms=list(settings.algorithms))
        jwt.JWTClaimsRegistry(
            leeway=settings.leeway_s,
            iss={"essential": True, "value": settings.issuer},
            aud={"essential": True, "value": settings.audience},
            exp={"essential": True},
            sub={"essential": True},
        ).validate(decoded.claims)
        return decoded.claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        settings = self._settings
        name = settings.tenant if settings.tenant_claim is None else str(_claim(claims, settings.tenant_claim))
        with self._db.read() as session:
            tenant_id = session.scalar(select(Tenant.id).where(or_(Tenant.name == name, Tenant.id == name)))
        if tenant_id is None:
            raise ValueError("no such tenant")
        granted = _words(_claim(claims, settings.scopes_claim))
        scopes = {scope for word, scope in settings.scope_of.items() if word in granted}
        known = {scope.value for scope in Scope}
        scopes |= {Scope(word) for word in granted if not settings.scope_of and word in known}
        if not scopes:
            raise ValueError("the token grants no scope")
        groups = _words(_claim(claims, settings.groups_claim))
        subject = "oidc_" + hashlib.sha256(f"{claims['iss']} {claims['sub']}".encode()).hexdigest()[:40]
        return Principal(tenant_id, subject, frozenset(scopes), frozenset(groups) - {"*"})

    def _key_set(self) -> KeySet:
        with self._lock:
            if self._keys is None or time.monotonic() - self._fetched_at > self._settings.jwks_ttl_s:
                try:
                    self._keys = KeySet.import_key_set(self._fetch(self._jwks_url()))
                except (TsumugiError, JoseError, ValueError, KeyError, TypeError) as error:
                    log.warning("oidc.keys_not_fetched", detail=str(error)[:200])
                    if self._keys is None:
                        raise Unavailable(
                            "the keys of the token issuer cannot be read now", code="oidc_unavailable"
                        ) from error
                self._fetched_at = time.monotonic()
            return self._keys

    def _jwks_url(self) -> str:
        settings = self._settings
        if settings.jwks_url is not None:
            return settings.jwks_url
        found = self._fetch(f"{settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if found.get("issuer") != settings.issuer:
            raise InvalidInput("the discovery document is another issuer's", code="oidc_unavailable")
        return str(found["jwks_uri"])

    def _forget_old_keys(self) -> bool:
        """Have the keys fetched anew, because a provider may have rotated them; False when that was done just now."""
        with self._lock:
            if time.monotonic() - self._fetched_at < _REFETCH_S:
                return False
            self._fetched_at = float("-inf")
            return True


def _claim(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by a dotted path into nested ones (`realm_access.roles`)."""
    value: Any = claims.get(path)
    if value is None:
        value = claims
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _words(value: Any) -> frozenset[str]:
    if isinstance(value, str):
        return frozenset(value.split())
    return frozenset(str(item) for item in value) if isinstance(value, list) else frozenset()
