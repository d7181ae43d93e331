"""Answers of the admin API that may be large: they are rendered in slices, between which requests of clients go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson
from fastapi import Response

from gateway.store.store import Store
from gateway.types import Page

SLICE_S: Final = 0.001
"""How long one slice of rendering may occupy the event loop."""


async def page_answer(store: Store, rows: Iterable[Mapping[str, Any]], page: Page[Any], **more: Any) -> Response:
    """A page of a list: {"object": "list", "data", "next", ...}."""
    return await large_answer(store, {"object": "list", "data": rows, "next": page.next, **more}, "data")


async def large_answer(store: Store, body: Mapping[str, Any], *lists: str) -> Response:
    """An object whose fields `lists` are iterables of objects; each of these is created when it is rendered."""
    parts: list[bytes] = []
    for name, value in body.items():
        parts += (b"," if parts else b"{", orjson.dumps(name), b":")
        if name in lists:
            parts += (b"[", b",".join(await _rendered(store, value)), b"]")
        else:
            parts.append(orjson.dumps(value))
    return Response(b"".join((*parts, b"}")), media_type="application/json")


async def _rendered(store: Store, rows: Iterable[Mapping[str, Any]]) -> list[bytes]:
    found: list[bytes] = []
    waiting = iter(rows)
    while True:
        async with store.large_reads:
            end_s = time.perf_counter() + SLICE_S
            for row in waiting:
                found.append(orjson.dumps(row))
                if time.perf_counter() > end_s:
                    break
            else:
                return found
        await asyncio.sleep(0)  # an uncontended lock does not yield to other tasks
