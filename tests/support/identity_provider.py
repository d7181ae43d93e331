"""An identity provider: OpenID Connect with PKCE, and device authorization. A stand-in for Keycloak, Okta and the like.

It signs everybody in at once, as `person`. What it gets wrong is set by a test: `claims` changes the ID token, `sign`
replaces how it is signed, `fault` breaks an endpoint.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.support.gateway import ServerThread

CLIENT_ID = "gateway"
CLIENT_SECRET = "a secret of the client: 1+1"


def new_key(kid: str) -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})


@dataclass
class Provider:
    """Mutable: who signs in, what is wrong, and what was asked."""

    url: str = ""
    person: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    sign: Callable[[dict[str, Any]], str] | None = None
    fault: dict[str, Response] = field(default_factory=dict)
    key: RSAKey = field(default_factory=lambda: new_key("first"))
    approved: bool = True
    asked: list[str] = field(default_factory=list)
    _codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def reset(self, **person: Any) -> None:
        self.person = person
        self.userinfo, self.claims, self.fault, self.asked = {}, {}, {}, []
        self.sign, self.approved = None, True

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._metadata),
                Route("/authorize", self._authorize),
                Route("/device", self._device, methods=["POST"]),
                Route("/token", self._token, methods=["POST"]),
                Route("/keys", self._keys),
                Route("/userinfo", self._userinfo),
            ]
        )

    def _broken(self, name: str) -> Response | None:
        self.asked.append(name)
        return self.fault.get(name)

    async def _metadata(self, request: Request) -> Response:
        del request
        endpoints = {
            "authorization_endpoint": "authorize",
            "token_endpoint": "token",
            "jwks_uri": "keys",
            "userinfo_endpoint": "userinfo",
            "device_authorization_endpoint": "device",
        }
        return self._broken("metadata") or JSONResponse(
            {
                "issuer": self.url,
                "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
                **{name: f"{self.url}/{path}" for name, path in endpoints.items()},
            }
        )

    async def _authorize(self, request: Request) -> Response:
        query = dict(request.query_params)
        assert (query["response_type"], query["client_id"]) == ("code", CLIENT_ID)
        assert query["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self._codes[code] = query
        answer = {"code": code, "state": query["state"]}
        return RedirectResponse(f"{query['redirect_uri']}?{urlencode(answer)}", 303)

    async def _device(self, request: Request) -> Response:
        if (broken := self._broken("device")) is not None:
            return broken
        await self._client(request)
        code = secrets.token_urlsafe(16)
        self._codes[code] = {}
        return JSONResponse(
            {
                "device_code": code,
                "user_code": "ABCD-EFGH",
                "verification_uri": f"{self.url}/enter",
                "expires_in": 60,
                "interval": 0,
            }
        )

    async def _client(self, request: Request) -> dict[str, str]:
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        name, _, secret = base64.b64decode(request.headers["authorization"].split()[1]).decode().partition(":")
        assert (unquote(name), unquote(secret.replace("+", " "))) == (CLIENT_ID, CLIENT_SECRET)
        return form

    async def _token(self, request: Request) -> Response:
        if (broken := self._broken("token")) is not None:
            return broken
        form = await self._client(request)
        if "device_code" in form:
            if not self.approved:
                return JSONResponse({"error": "authorization_pending"}, 400)
            known = self._codes.pop(form["device_code"], None)
        else:
            known = self._codes.pop(form["code"], None)
        if known is None:
            return JSONResponse({"error": "invalid_grant"}, 400)
        if known:
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == known["code_challenge"]
            assert form["redirect_uri"] == known["redirect_uri"]
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 60, **self.person}
        if "nonce" in known:
            claims["nonce"] = known["nonce"]
        claims = {name: value for name, value in {**claims, **self.claims}.items() if value is not None}
        token = self.sign(claims) if self.sign else jwt.encode({"alg": "RS256", "kid": self.key.kid}, claims, self.key)
        return JSONResponse({"access_token": "at", "token_type": "Bearer", "id_token": token})

    async def _keys(self, request: Request) -> Response:
        del request
        return self._broken("keys") or JSONResponse(KeySet([self.key]).as_dict(private=False))

    async def _userinfo(self, request: Request) -> Response:
        assert request.headers["authorization"] == "Bearer at"
        return self._broken("userinfo") or JSONResponse(self.userinfo)


@contextlib.contextmanager
def identity_provider() -> Iterator[Provider]:
    """Yields a provider that serves."""
    provider = Provider()
    server = ServerThread(uvicorn.Config(provider.app(), host="127.0.0.1", port=0, log_level="error"))
    try:
        provider.url = server.start()
        yield provider
    finally:
        server.stop()


def text(body: str, status: int = 200) -> Response:
    """An answer that is not JSON."""
    return PlainTextResponse(body, status)
