"""Reads packed entries of the journal: one field of MessagePack values, which scripts/entry.lua explains. Pure.

plain_fields(fields, texts)         -> the fields of an entry as older versions wrote them: names and values
expand_fields(packed, row, ending)  -> the same, if the two texts came with the entry
read_known(packed, row, ending)     -> what the entry remembers of a response
fingerprint(id)                     -> the name of a hold or a response in the index
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

_PACKED: Final = b"e"
_PREFIXES: Final[Mapping[int, str]] = MappingProxyType({1: "req_", 2: "resp_", 3: "usage_"})
_TEXT: Final = 0
_UNSIGNED: Final[Mapping[int, int]] = MappingProxyType({0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8})
_SIGNED: Final[Mapping[int, int]] = MappingProxyType({0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8})
_MAX_POSITIVE: Final = 0x7F
_MIN_NEGATIVE: Final = 0xE0
_SHORT_STRINGS: Final = range(0xA0, 0xC0)
_STRINGS: Final[Mapping[int, int]] = MappingProxyType({0xD9: 1, 0xDA: 2, 0xDB: 4})
_NAMES: Final = ("amount", "balance", "hold", "in", "cached", "out", "reasoning")
_FIRST_NUMBER: Final = 3
_ADMITTED: Final = 10
_RESPONSE: Final = 11
_BILL: Final = 12
_REMEMBERED: Final = 13
_PROVIDERS: Final = 14
_OVER: Final = 15
_TAGS: Final = 16
_END_USER: Final = 17
_FINGERPRINT_BYTES: Final = 7


@dataclass(frozen=True, slots=True)
class KnownEntry:
    """What an entry remembers of a response. `remembered`: a text that replaces the other values, or "".

    `request_id` is the request that made it, and `held_nano_usd` was its hold. `tags` and `end_user`: those of that
    request, if the cost is an estimate.
    """

    request_id: str
    key_id: str
    model: str
    upstream: str
    upstream_key: str
    settled_by: str
    admitted_ms: int
    cost_nano_usd: int
    held_nano_usd: int
    tokens: tuple[int, int, int, int]
    remembered: str
    tags: str
    end_user: str


def fingerprint(name: str) -> str:
    """Returns the beginning of the SHA-256 of an id, in hexadecimal digits."""
    return hashlib.sha256(name.encode()).digest()[:_FINGERPRINT_BYTES].hex()


def plain_fields(fields: Sequence[bytes], texts: Mapping[int, bytes]) -> list[bytes]:
    """Returns names and values in turn.

    Raises ValueError, TypeError or LookupError for an entry that no version wrote.
    """
    if not fields or fields[0] != _PACKED:
        return list(fields)
    values = list(_read(fields[1]))
    row, ending = (_text(values[at], texts) for at in (1, 2))
    key_id, _, model = row.partition("|")
    (kind, outcome, by, upstream), bill, _ = _split_ending(ending)
    cost, _, hold, *_ = numbers = [_number(value) for value in values[_FIRST_NUMBER:_ADMITTED]]
    plain = {"type": kind, "id": _id(values[0]), "key": key_id, "model": model, "upstream": upstream}
    plain |= {"outcome": outcome, "by": by} | {
        name: str(number) for name, number in zip(_NAMES, (-cost, *numbers[1:]), strict=True)
    }
    more = {
        "bill": _string(values, _BILL) or bill,
        "response": next((_id(values[at]) for at in (_PROVIDERS, _RESPONSE) if len(values) > at and values[at]), ""),
        "over": str(over) if (over := _over(values, cost, hold)) else "",
    }
    plain |= {name: value for name, value in more.items() if value}
    return [word.encode() for pair in plain.items() for word in pair]


def expand_fields(packed: bytes, row: bytes, ending: bytes) -> list[bytes]:
    """Returns the same as `plain_fields` for a packed entry whose texts are known."""
    _, first, second, *_ = _read(packed)
    texts = {value: text for value, text in ((first, row), (second, ending)) if isinstance(value, int)}
    return plain_fields([_PACKED, packed], texts)


def read_known(packed: bytes, row: bytes, ending: bytes) -> KnownEntry:
    """Reads what an entry remembers of its response. Raises as `plain_fields` does."""
    values = list(_read(packed))
    key_id, _, model = row.decode().partition("|")
    (_, _, by, upstream), _, upstream_key = _split_ending(ending.decode())
    cost, _, held, used, cached, made, reasoning, admitted_ms = (
        _number(value) for value in values[_FIRST_NUMBER : _ADMITTED + 1]
    )
    tokens = (used, cached, made, reasoning)
    texts = (_string(values, at) for at in (_REMEMBERED, _TAGS, _END_USER))
    return KnownEntry(
        _id(values[0]), key_id, model, upstream, upstream_key, by, admitted_ms, cost, held, tokens, *texts
    )


def _over(values: Sequence[int | bytes], cost: int, hold: int) -> int:
    return _number(values[_OVER]) if len(values) > _OVER else cost - hold if 0 < hold < cost else 0


def _split_ending(ending: str) -> tuple[list[str], str, str]:
    said, bill, upstream_key = ending.split("\n")
    return said.split(" ", 3), bill, upstream_key


def _id(value: int | bytes) -> str:
    if not isinstance(value, bytes):
        raise TypeError("not an id")
    if not value or value[0] not in (*_PREFIXES, _TEXT):
        return value.decode()
    return value[1:].decode() if value[0] == _TEXT else _PREFIXES[value[0]] + value[1:].hex()


def _text(value: int | bytes, texts: Mapping[int, bytes]) -> str:
    return (value if isinstance(value, bytes) else texts[value]).decode()


def _string(values: Sequence[int | bytes], at: int) -> str:
    value = values[at] if len(values) > at else b""
    if not isinstance(value, bytes):
        raise TypeError("not a text")
    return value.decode()


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise TypeError("not a number")
    return value


def _read(packed: bytes) -> Iterator[int | bytes]:
    """Yields the values of a sequence of MessagePack integers and strings."""
    at = 0
    while at < len(packed):
        kind, at = packed[at], at + 1
        if kind <= _MAX_POSITIVE:
            yield kind
        elif kind >= _MIN_NEGATIVE:
            yield kind - 0x100
        elif size := _UNSIGNED.get(kind) or _SIGNED.get(kind):
            yield int.from_bytes(_cut(packed, at, size), "big", signed=kind in _SIGNED)
            at += size
        else:
            width = _STRINGS.get(kind, 0)
            if not width and kind not in _SHORT_STRINGS:
                raise ValueError("a value of another kind")
            size = int.from_bytes(_cut(packed, at, width), "big") if width else kind & 0x1F
            at += width
            yield _cut(packed, at, size)
            at += size


def _cut(packed: bytes, at: int, size: int) -> bytes:
    if at + size > len(packed):
        raise ValueError("cut off")
    return packed[at : at + size]
