"""The client of the identity provider. The ID token that the provider signs names the person.

    authorization_url(...)      where a browser signs in: authorization code with PKCE (RFC 7636), state and nonce
    person_by_code(...)         the code that the browser brings back -> Person
    begin_device(...)           a code to enter at the provider, for programs without a browser (RFC 8628)
    person_by_device(...)       -> Person, or None as long as nobody has entered the code

What is checked of an ID token (OpenID Connect Core 1.0, ID Token Validation): its signature by a key of the provider,
with an asymmetric algorithm that the provider has announced; issuer, audience, authorised party, expiry, nonce, and the
hash of the access token. The libraries authlib and joserfc check them.

Mutable: the provider's metadata and keys, which are read when they are first needed, and again from time to time.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

import httpx

from gateway.errors import GatewayError
from gateway.oidc.config import OidcConfig
from gateway.oidc.person import Person, has_groups, person_of

if TYPE_CHECKING:
    from joserfc.jwk import KeySet

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
_METADATA_S: Final = 3600.0
_KEYS_EVERY_S: Final = 10.0  # the shortest time between two reads of the keys because of a token with an unknown key
_LEEWAY_S: Final = 60
_MAX_CONCURRENT_CALLS: Final = 8
_MAX_ANSWER_BYTES: Final = 1024 * 1024
_ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
_SLOWER_MS: Final = 5000  # RFC 8628, section 3.5: by how much the pause between two polls grows


class Device(NamedTuple):
    """A sign-in of a program without a browser. A person opens `verification_uri` and enters `user_code` there."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_in_s: int
    interval_s: int


class IdentityProvider:
    """One provider. Raises GatewayError `sign_in_failed`, and `identity_provider_unavailable` if it does not answer."""

    def __init__(self, config: OidcConfig) -> None:
        self._config = config
        self._http = httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=config.ca_file), timeout=config.timeout_s, follow_redirects=False
        )
        self._calls = asyncio.Semaphore(_MAX_CONCURRENT_CALLS)
        self._metadata: Mapping[str, Any] = {}
        self._metadata_until_s = 0.0
        self._keys: KeySet | None = None
        self._keys_read_s = 0.0

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, challenge: str) -> str:
        """Returns where the browser signs in. `challenge` is the S256 challenge of the verifier."""
        endpoint = await self._endpoint("authorization_endpoint")
        query = {
            "response_type": "code",
            "client_id": self._config.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self._config.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"

    async def person_by_code(self, code: str, *, redirect_uri: str, verifier: str, nonce: str) -> Person:
        """Exchanges the code that the browser has brought."""
        grant = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        tokens = await self._post("token_endpoint", grant)
        if "error" in tokens:
            raise _failed(f"the provider refused the code: {tokens['error']}")
        return await self._person(tokens, nonce)

    async def begin_device(self) -> Device:
        """Begins a sign-in for a program without a browser."""
        begun = await self._post("device_authorization_endpoint", {"scope": " ".join(self._config.scopes)})
        if "error" in begun:
            raise _failed(f"the provider refused the device: {begun['error']}")
        try:
            return Device(
                str(begun["device_code"]),
                str(begun["user_code"]),
                str(begun["verification_uri"]),
                begun.get("verification_uri_complete"),
                int(begun["expires_in"]),
                int(begun.get("interval", 5)),
            )
        except (KeyError, TypeError, ValueError):
            raise _unavailable("its answer to the device authorization has another form") from None

    async def person_by_device(self, device_code: str) -> Person | None:
        """Returns who has signed in with a device's code, or None if nobody has so far.

        Raises GatewayError `rate_limit_exceeded` if it is called too often.
        """
        tokens = await self._post("token_endpoint", {"grant_type": DEVICE_GRANT, "device_code": device_code})
        if tokens.get("error") == "authorization_pending":
            return None
        if tokens.get("error") == "slow_down":
            text = "The identity provider was asked too often whether the sign-in is complete."
            raise GatewayError("rate_limit_exceeded", text, wait_ms=_SLOWER_MS)
        if "error" in tokens:
            raise _failed(f"the provider refused the sign-in: {tokens['error']}")
        return await self._person(tokens, None)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _person(self, tokens: Mapping[str, Any], nonce: str | None) -> Person:
        config = self._config
        claims = await self._claims(tokens, nonce)
        if not has_groups(claims, config.groups_claim) and "userinfo_endpoint" in self._metadata:
            headers = {"authorization": f"Bearer {tokens.get('access_token', '')}"}
            more = await self._call("GET", await self._endpoint("userinfo_endpoint"), headers=headers)
            if more.get("sub") == claims["sub"]:  # OpenID Connect Core 1.0, 5.3.2
                claims = {**more, **claims}
        return person_of(claims, config.name_claim, config.groups_claim)

    async def _claims(self, tokens: Mapping[str, Any], nonce: str | None) -> Mapping[str, Any]:
        """Returns the claims of the ID token, if it is valid."""
        from authlib.oidc.core import CodeIDToken, IDToken  # noqa: PLC0415 - only a gateway with this sign-in loads it
        from joserfc import jwt  # noqa: PLC0415 - the same
        from joserfc.errors import JoseError  # noqa: PLC0415 - the same

        text, config = tokens.get("id_token"), self._config
        if not isinstance(text, str):
            raise _failed("the provider's answer has no ID token")
        algorithms = sorted(
            _ALGORITHMS.intersection(self._metadata.get("id_token_signing_alg_values_supported", ["RS256"]))
        )
        try:
            try:
                token = jwt.decode(text, await self._key_set(), algorithms=algorithms)
            except (JoseError, ValueError):  # the provider may have new keys
                token = jwt.decode(text, await self._key_set(again=True), algorithms=algorithms)
            claims = (IDToken if nonce is None else CodeIDToken)(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": config.issuer},
                    "aud": {"essential": True, "value": config.client_id},
                },
                {"nonce": nonce, "client_id": config.client_id, "access_token": tokens.get("access_token")},
            )
            claims.validate(time.time(), _LEEWAY_S)
        except (JoseError, ValueError, TypeError, KeyError) as error:
            raise _failed(f"the ID token is not valid: {error}") from None
        return dict(claims)

    async def _key_set(self, *, again: bool = False) -> KeySet:
        from joserfc.jwk import KeySet  # noqa: PLC0415 - see `_claims`

        now_s = time.monotonic()
        if self._keys is None or (again and now_s - self._keys_read_s >= _KEYS_EVERY_S):
            self._keys_read_s = now_s
            found: Any = await self._call("GET", await self._endpoint("jwks_uri"))
            self._keys = KeySet.import_key_set(found)
        return self._keys

    async def _endpoint(self, name: str) -> str:
        """Returns an endpoint by its name in the provider's metadata (OpenID Connect Discovery 1.0, 4)."""
        if time.monotonic() >= self._metadata_until_s:
            issuer = self._config.issuer
            found = await self._call("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            if found.get("issuer") != issuer:
                raise _unavailable(f"its metadata names another issuer: {found.get('issuer')}")
            self._metadata, self._metadata_until_s = found, time.monotonic() + _METADATA_S
        endpoint = self._metadata.get(name)
        if not isinstance(endpoint, str):
            raise _unavailable(f"it has no {name}")
        return endpoint

    async def _post(self, endpoint: str, form: Mapping[str, str]) -> Mapping[str, Any]:
        """Sends a form as this client (RFC 6749, 2.3.1). The answer may be an error of OAuth."""
        config, url = self._config, await self._endpoint(endpoint)
        methods = self._metadata.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        auth = None
        if not config.client_secret:
            form = {**form, "client_id": config.client_id}
        elif "client_secret_basic" in methods:
            form = {**form, "client_id": config.client_id}
            auth = httpx.BasicAuth(_form_encoded(config.client_id), _form_encoded(config.client_secret))
        else:
            form = {**form, "client_id": config.client_id, "client_secret": config.client_secret}
        return await self._call("POST", url, data=form, auth=auth)

    async def _call(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """Returns the JSON object that the provider answers. Its size and the number of calls at a time are bounded."""
        try:
            async with self._calls, self._http.stream(method, url, **options) as answer:
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > _MAX_ANSWER_BYTES:
                        raise _unavailable(f"its answer is longer than {_MAX_ANSWER_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _unavailable(str(error) or type(error).__name__) from None
        try:
            found = httpx.Response(answer.status_code, content=body).json()
        except ValueError:
            found = None
        if not isinstance(found, dict) or (answer.is_error and "error" not in found):
            raise _unavailable(f"it answered {answer.status_code} without a JSON object")
        return found


def _form_encoded(text: str) -> str:
    return urlencode({"": text})[1:]


def _failed(detail: str) -> GatewayError:
    return GatewayError("sign_in_failed", f"The sign-in failed: {detail}.")


def _unavailable(detail: str) -> GatewayError:
    return GatewayError(
        "identity_provider_unavailable", f"The identity provider cannot be used: {detail}.", wait_ms=1000
    )
