"""Requests as bytes, for a gateway that soon gives up on slow or large ones."""

from __future__ import annotations

from tests.support.scenario import RawClient, Scenario

SERVER = {"port": 0, "max_head_bytes": 4096, "head_timeout_s": 0.5, "body_timeout_s": 0.5, "max_body_bytes": 600_000}


def head(scenario: Scenario, *lines: str, key: str | None = None) -> bytes:
    """Returns the head of a request for a response. `key`: in place of the scenario's."""
    text = scenario.key.text if key is None else key
    return "\r\n".join(
        ["POST /v1/responses HTTP/1.1", "host: gateway", f"authorization: Bearer {text}", *lines, "", ""]
    ).encode("latin-1")


async def exchange(scenario: Scenario, data: bytes) -> RawClient:
    """Sends bytes on a new connection, and reads the answer up to its body."""
    client = await scenario.connect()
    await client.send(data)
    await client.read_until(b"\r\n\r\n")
    return client
