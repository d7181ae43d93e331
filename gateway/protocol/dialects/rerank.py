"""Rerank in Cohere's format (API reference, v2/rerank), which Jina, Voyage and OpenRouter follow.

Cohere counts search units: one unit is a query over up to 100 pieces of documents, and a long document has several
pieces. Other providers count tokens. Both also charge for empty results.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from gateway.protocol.dialects.dialect import AnswerFacts, Bounds, Dialect, Json, RequestForm, member
from gateway.protocol.dialects.openai_form import answer_facts, error_body, error_status

_PIECES_PER_UNIT: Final = 100
_FRAME_TOKENS: Final = 4  # between the query and each piece
_PIECE_BYTES: Final = 1_000
"""A piece of a document has up to 510 tokens. The hold assumes scripts with two bytes per token."""


def read_answer(body: Json) -> AnswerFacts:
    """Reads a ranking of documents."""
    usage = dict(member(body, "usage") or {})
    billed = member(body, "meta", "billed_units")
    if billed is not None:
        usage["billed_units"] = billed
    return answer_facts(body, usage or None)


def bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns the search units that the documents may need.

    The query is read together with each piece of a document.
    """
    documents = fields.get("documents")
    pieces = sum(-(-_size(one) // _PIECE_BYTES) or 1 for one in documents) if isinstance(documents, list) else 1
    units = Decimal(max(1, -(-pieces // _PIECES_PER_UNIT)))
    repeated_bytes = (max(1, pieces) - 1) * _size(fields.get("query")) + pieces * _FRAME_TOKENS
    return Bounds(units={"search_unit": units}, usage={"search_units": int(units)}, repeated_bytes=repeated_bytes)


def _size(document: object) -> int:
    if isinstance(document, dict):
        return sum(_size(value) for value in document.values())
    return len(document.encode("utf-8", "replace")) if isinstance(document, str) else 1


RERANK: Final = Dialect(
    "rerank",
    RequestForm(frozenset({"model", "query", "documents"}), bounds, has_output=False),
    read_answer,
    error_body,
    error_status=error_status,
)
