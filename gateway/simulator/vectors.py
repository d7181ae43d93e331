"""Calls without text output: embeddings, moderations, rerank.

A vector is derived from its text's hash: the same text has the same vector, and all have the length 1.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from itertools import islice
from typing import Any, Final

import orjson

from gateway.simulator.answer import send_misbehaviour, send_text
from gateway.simulator.behaviours import BadModel, Behaviour, behaviour_of
from gateway.simulator.http_exchange import HttpExchange
from gateway.simulator.request import JsonObject, ProviderError, parse_object
from gateway.simulator.text import tokens_of
from gateway.simulator.translation import model_of

_DIMENSIONS: Final = 1536
_MAX_DIMENSIONS: Final = 4096
_PIECES_PER_UNIT: Final = 100
_FLAGGED: Final = ("violence", ("kill", "murder", "bomb"))
_CATEGORIES: Final = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip


async def embeddings(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/embeddings."""
    fields = parse_object(body)
    model = model_of(fields)
    behaviour = known_behaviour(model)
    inputs = _inputs(fields.get("input"))
    if await send_misbehaviour(exchange, behaviour, model):
        return
    size = fields.get("dimensions") or _DIMENSIONS
    if not isinstance(size, int) or not 1 <= size <= _MAX_DIMENSIONS:
        raise ProviderError("invalid_field", f"dimensions: 1 to {_MAX_DIMENSIONS}", param="dimensions")
    as_base64 = fields.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _shown(_vector(repr(one), size), as_base64=as_base64)}
        for index, one in enumerate(inputs)
    ]
    tokens = sum(len(one) if isinstance(one, list) else max(1, len(tokens_of(one))) for one in inputs)
    answer: JsonObject = {"object": "list", "data": data, "model": model}
    if behaviour.usage:
        answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    await send_text(exchange, behaviour, orjson.dumps(answer), 1)


async def moderations(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/moderations."""
    fields = parse_object(body)
    model = model_of(fields, "omni-moderation-latest")
    value = fields.get("input")
    if value is None:
        raise ProviderError("missing_field", "input is required", param="input")
    texts = value if isinstance(value, list) and all(isinstance(one, str) for one in value) else [str(value)]
    behaviour = known_behaviour(model)
    if await send_misbehaviour(exchange, behaviour, model):
        return
    answer = {"id": f"modr-{_digest(repr(value)).hex()[:24]}", "model": model, "results": list(map(_verdict, texts))}
    await send_text(exchange, behaviour, orjson.dumps(answer), 1)


async def rerank(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/rerank, in Cohere's form."""
    fields = parse_object(body)
    model = model_of(fields)
    query, documents = fields.get("query"), fields.get("documents")
    if not isinstance(query, str) or not isinstance(documents, list):
        raise ProviderError("missing_field", "query and documents are required", param="documents")
    behaviour = known_behaviour(model)
    if await send_misbehaviour(exchange, behaviour, model):
        return
    wanted = {word.lower() for word in query.split()}
    scored = [
        (len(wanted & set(str(one).lower().split())) / max(1, len(wanted)), -at) for at, one in enumerate(documents)
    ]
    top_n = fields.get("top_n")
    best = sorted(scored, reverse=True)[: top_n if isinstance(top_n, int) else None]
    answer: JsonObject = {
        "id": _digest(query).hex()[:24],
        "results": [{"index": -at, "relevance_score": score} for score, at in best],
        "meta": {"api_version": {"version": "2"}},
    }
    if behaviour.usage:
        answer["meta"]["billed_units"] = {"search_units": max(1, math.ceil(len(documents) / _PIECES_PER_UNIT))}
    await send_text(exchange, behaviour, orjson.dumps(answer), 1)


def known_behaviour(model: str) -> Behaviour:
    """Returns the behaviour that a model's name selects. Raises `ProviderError`."""
    try:
        return behaviour_of(model)
    except BadModel as error:
        raise ProviderError("invalid_field", str(error), param="model") from error


def _inputs(value: object) -> list[Any]:
    if isinstance(value, str) and value:
        return [value]
    if isinstance(value, list) and value and all(isinstance(one, int) for one in value):
        return [value]
    if isinstance(value, list) and value and all(isinstance(one, str | list) and one for one in value):
        return value
    raise ProviderError("missing_field", "input must be a text, token ids, or a list of either", param="input")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _vector(text: str, size: int) -> list[float]:
    seed = _digest(text)
    numbers: list[float] = []
    block = 0
    while len(numbers) < size:
        bytes_ = hashlib.sha256(seed + block.to_bytes(4, "big")).digest()
        numbers += (value / 2**31 - 1 for (value,) in struct.iter_unpack(">I", bytes_))
        block += 1
    vector = list(islice(numbers, size))
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


def _shown(vector: list[float], *, as_base64: bool) -> object:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if as_base64 else vector


def _verdict(text: str) -> JsonObject:
    name, words = _FLAGGED
    flagged = any(word in text.lower() for word in words)
    scores = {category: 0.9 if flagged and category == name else 0.0001 for category in _CATEGORIES}
    return {
        "flagged": flagged,
        "categories": {category: score > 0.5 for category, score in scores.items()},  # noqa: PLR2004 - the usual line
        "category_scores": scores,
        "category_applied_input_types": {category: ["text"] for category in _CATEGORIES},
    }
