"""The models that the upstreams offer, from their own `GET /models`.

Lists are cached, and no model request waits for one. If a list cannot be fetched, the last one stays. An upstream that
answers 404, 405 or 501 offers no list, which is cached too.

Mutable: `_known`, one entry per upstream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.protocol.lenient_json import parse_object
from gateway.upstream.buffered_answer import read_whole
from gateway.upstream.decoded_answer import uncompressed
from gateway.upstream.transport import UpstreamFault
from gateway.upstream.upstream import Upstream

Model = dict[str, Any]

FRESH_S: Final = 300.0
RETRY_S: Final = 15.0
TIMEOUT_S: Final = 10.0
_MAX_BYTES: Final = 8 * 1024 * 1024
_OK: Final = 200
_PATH: Final = b"/models"
_ONE_PAGE_PATH: Final = b"/models?limit=1000"
"""The path for lists in pages. Anthropic's pages have 20 models by default, and at most 1000."""
_NOT_OFFERED: Final = frozenset({404, 405, 501})
_KEY_REFUSED: Final = frozenset({401, 402, 403, 429})  # another key may be permitted to read the list
_NO_MODEL: Final = ""  # the name under which a key rests after requests that concern no model


@dataclass(frozen=True, slots=True)
class Listing:
    """An upstream's models, each as the upstream describes it.

    `was_received`: a list has been received since the start.
    """

    models: tuple[Model, ...] = ()
    was_received: bool = False


@dataclass(frozen=True, slots=True)
class _Entry:
    listing: Listing
    until_s: float


class ModelList:
    """The upstreams' lists of models.

    Args:
        upstreams: by name.
        before: an earlier object, whose lists of the same upstreams are taken over.
    """

    def __init__(self, upstreams: Mapping[str, Upstream], before: ModelList | None = None) -> None:
        self._upstreams = upstreams
        self._known: dict[str, _Entry] = before.known_of(upstreams) if before is not None else {}
        self._fetching: dict[str, asyncio.Task[_Entry]] = {}

    def known_of(self, upstreams: Mapping[str, Upstream]) -> dict[str, _Entry]:
        """Returns what is known of those upstreams that are also in this list."""
        return {name: entry for name, entry in self._known.items() if upstreams.get(name) is self._upstreams[name]}

    async def models(self, name: str) -> Listing:
        """Returns one upstream's models."""
        clock = asyncio.get_running_loop().time
        known = self._known.get(name)
        if known is not None and clock() < known.until_s:
            return known.listing
        fetching = self._fetching.get(name)
        if fetching is None:
            # One request serves all callers that wait. It continues if the first of them leaves.
            fetching = self._fetching[name] = asyncio.create_task(self._fetch(name))
            fetching.add_done_callback(lambda _: self._fetching.pop(name, None))
        return (await asyncio.shield(fetching)).listing

    async def _fetch(self, name: str) -> _Entry:
        clock = asyncio.get_running_loop().time
        before = self._known.get(name)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                models = await _fetch(self._upstreams[name], clock())
            entry = _Entry(Listing(models, was_received=True), clock() + FRESH_S)
        except (UpstreamFault, TimeoutError, ValueError):
            entry = _Entry(before.listing if before else Listing(), clock() + RETRY_S)
        self._known[name] = entry
        return entry


async def _fetch(upstream: Upstream, now_s: float, path: bytes = _PATH) -> tuple[Model, ...]:
    """Fetches a list with one key after the other, resting keys last. A list in pages is fetched again as one page.

    Raises UpstreamFault, or ValueError for an answer that is not a list of models.
    """
    headers = [(b"accept", b"application/json"), (b"accept-encoding", b"identity")]
    status = 0
    for key in sorted(upstream.keys.keys, key=lambda one: max(one.resting_until_s(_NO_MODEL), now_s)):
        answer = await upstream.attempt(key, b"GET", path, headers, b"")
        whole = await read_whole(uncompressed(answer), _MAX_BYTES, TIMEOUT_S)
        status = whole.status
        if status in _NOT_OFFERED:
            return ()
        fields = (parse_object(whole.body) or {}) if status == _OK and whole.fault is None else {}
        if fields.get("has_more") is True and path == _PATH:
            return await _fetch(upstream, now_s, _ONE_PAGE_PATH)
        listed = fields.get("data")
        if isinstance(listed, list):
            return tuple(model for model in listed if isinstance(model, dict) and isinstance(model.get("id"), str))
        if status not in _KEY_REFUSED:
            break
    raise ValueError(f"not a list of models (status {status})")
