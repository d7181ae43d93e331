"""Which models the upstreams offer, by their own `GET /models`; remembered for a while, never on the request line.

State that changes: `_known`, one entry an upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.upstream.transport import UpstreamFault
from gateway.upstream.upstream import Upstream

Model = dict[str, Any]

FRESH_S: Final = 300.0
RETRY_S: Final = 15.0
TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 8 * 1024 * 1024
_OK: Final = 200


@dataclass(frozen=True, slots=True)
class _Entry:
    models: tuple[Model, ...]
    until_s: float


class ModelList:
    """The upstreams' lists of models. One that cannot be had counts as what it was last, or empty."""

    def __init__(self, upstreams: Mapping[str, Upstream]) -> None:
        self._upstreams = upstreams
        self._known: dict[str, _Entry] = {}
        self._asking: dict[str, asyncio.Task[_Entry]] = {}

    async def models(self, name: str) -> tuple[Model, ...]:
        """One upstream's models, each as it describes it."""
        clock = asyncio.get_running_loop().time
        known = self._known.get(name)
        if known is not None and clock() < known.until_s:
            return known.models
        asking = self._asking.get(name)
        if asking is None:
            # One question for all who wait; it goes on if the first of them leaves.
            asking = self._asking[name] = asyncio.create_task(self._ask(name))
            asking.add_done_callback(lambda _: self._asking.pop(name, None))
        return (await asyncio.shield(asking)).models

    async def _ask(self, name: str) -> _Entry:
        clock = asyncio.get_running_loop().time
        before = self._known.get(name)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                models = await _fetch(self._upstreams[name], clock())
            entry = _Entry(models, clock() + FRESH_S)
        except (UpstreamFault, TimeoutError, ValueError):
            entry = _Entry(before.models if before else (), clock() + RETRY_S)
        self._known[name] = entry
        return entry


async def _fetch(upstream: Upstream, now_s: float) -> tuple[Model, ...]:
    """Raises UpstreamFault, or ValueError for an answer that is no list of models."""
    keys = upstream.keys.candidates(now_s)
    if not keys:
        raise ValueError("every key rests")
    headers = [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
    answer = await upstream.attempt(keys[0], b"GET", b"/models", headers, b"")
    try:
        body = b""
        while data := await answer.read():
            body += data
            if len(body) > _MAX_BYTES:
                raise ValueError("too large")
    finally:
        answer.abort()
    listed = orjson.loads(body).get("data") if answer.status == _OK else None
    if isinstance(listed, list):
        return tuple(model for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str))
    raise ValueError(f"not a list of models (status {answer.status})")
