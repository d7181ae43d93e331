"""What the simulator received: it records each request, and the digest of what it sent back."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import httpx
import openai

from tests.support.waiting import wait_until_sync


@dataclass(frozen=True, slots=True)
class ProviderRequest:
    """One request on the provider's side."""

    body: bytes
    headers: dict[str, str]
    authorization_sha256: str
    response_sha256: str
    client_left: bool

    @property
    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = json.loads(self.body)
        return fields


class Sent:
    """Queries the simulator. The gateway's `x-request-id` identifies a request on both sides."""

    def __init__(self, upstream_url: str) -> None:
        self._url = upstream_url.removesuffix("/v1") + "/_sim/requests?limit=200"

    def of(self, request_id: str) -> ProviderRequest:
        """Returns the finished request of this id. Fails if the provider never received it."""
        found: list[dict[str, Any]] = []

        def finished() -> bool:
            found[:] = [one for one in self._all() if ["x-request-id", request_id] in one["headers"]]
            return bool(found and found[0]["finished"])

        wait_until_sync(finished, what=f"the provider has finished {request_id}")
        assert len(found) == 1, "one request of a client is one request to the provider"
        return ProviderRequest(
            body=base64.b64decode(found[0]["body_base64"]),
            headers=dict(found[0]["headers"]),
            authorization_sha256=found[0]["authorization"]["sha256"],
            response_sha256=found[0]["response_sha256"],
            client_left=found[0]["client_left"],
        )

    def count(self, marker: bytes) -> int:
        """Returns how many requests contained this in their body."""
        return sum(marker in base64.b64decode(one["body_base64"]) for one in self._all())

    def _all(self) -> list[dict[str, Any]]:
        requests: list[dict[str, Any]] = httpx.get(self._url).json()["requests"]
        return requests


def request_id(answer: openai.BaseModel) -> str:
    """The gateway's id of the request behind an SDK's answer."""
    found = answer._request_id  # noqa: SLF001 - public, says the SDK: only its place among a model's fields is not
    assert found is not None
    return found


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
