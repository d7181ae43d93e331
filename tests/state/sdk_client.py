"""The official SDK's clients, called in one way whether they are synchronous or not, and the list of their methods.

methods(client)                 every public method below `responses` and `conversations`, by its path
member(client, path)            the method at a path
await result(value)             a call's result
await collected(values)         the items of a page with those behind it, or the events of a stream
async with entered(manager)     a stream, a connection, or an answer that is read piece by piece
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai

Sdk = openai.OpenAI | openai.AsyncOpenAI
RAW, STREAMED = "with_raw_response", "with_streaming_response"
_ROOTS = ("responses", "conversations")


def methods(client: Sdk) -> list[str]:
    return [path for root in _ROOTS for path in _methods(getattr(client, root), root)]


def _methods(resource: object, path: str) -> Iterator[str]:
    for name in dir(resource):
        if not name.startswith("_"):
            found = getattr(resource, name)
            if callable(found):
                yield f"{path}.{name}"
            else:
                yield from _methods(found, f"{path}.{name}")


def member(client: Sdk, path: str) -> Any:
    found: Any = client
    for name in path.split("."):
        found = getattr(found, name)
    return found


async def result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def collected(values: Any) -> list[Any]:
    return [one async for one in values] if hasattr(values, "__aiter__") else list(values)


@contextlib.asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    if hasattr(manager, "__aenter__"):
        async with manager as found:
            yield found
    else:
        with manager as found:
            yield found
