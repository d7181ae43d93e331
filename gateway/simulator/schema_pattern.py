"""Regular expression -> strings that match it, shortest first.

Walks the tree of Python's own parser. What cannot be followed (look-around, back references) gives
strings that may not match: the caller tests each one.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Any, Final

from gateway.simulator.schema_check import Unsatisfiable
from gateway.simulator.schema_match import holds, parse_pattern

_PRINTABLE: Final = "aA0 " + string.ascii_letters + string.digits + string.punctuation
_MAX_REPEAT: Final = 1_000
_MAX_CHARACTERS: Final = 100_000
_CLASSES: Final[Mapping[str, str]] = {"CATEGORY_DIGIT": "0", "CATEGORY_WORD": "a", "CATEGORY_SPACE": " "}


def match_candidates(pattern: str, min_characters: int, salt: int) -> Iterator[str]:
    """Yields strings of growing length that match `pattern`. `salt` rotates the choices, to make different strings."""
    try:
        tree = parse_pattern(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"the pattern {pattern!r} cannot be read: {error}"
        raise Unsatisfiable(msg) from error
    for extra in (0, 1, 2, 4, 8, 16, 32, 64, min_characters):
        made = _sequence(tree, extra + (salt if extra else 0), salt)
        yield made
        yield made.ljust(min_characters, "x")


def _sequence(tree: Any, extra: int, salt: int) -> str:
    made = "".join(_node(str(op), argument, extra, salt) for op, argument in tree)
    if len(made) > _MAX_CHARACTERS:
        msg = "the pattern's shortest match is too long"
        raise Unsatisfiable(msg)
    return made


def _node(op: str, argument: Any, extra: int, salt: int) -> str:
    made = ""  # anchors match no characters
    match op:
        case "LITERAL":
            made = chr(argument)
        case "NOT_LITERAL":
            made = next(char for char in _PRINTABLE if ord(char) != argument)
        case "ANY":
            made = "x"
        case "IN":
            made = _one_of(argument, salt)
        case "BRANCH":
            branches = argument[1]
            made = _sequence(branches[salt % len(branches)], extra, salt)
        case "SUBPATTERN":
            made = _sequence(argument[-1], extra, salt)
        case "ATOMIC_GROUP":
            made = _sequence(argument, extra, salt)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            low, high, inner = argument
            made = _repeated(inner, max(low, min(int(high), low + extra)), extra, salt)
    return made


def _repeated(inner: Any, wanted: int, extra: int, salt: int) -> str:
    made, count = "", min(wanted, _MAX_REPEAT)
    for turn in range(count):
        made += _sequence(inner, extra if count <= 1 else 0, salt + turn)
        if len(made) > _MAX_CHARACTERS:
            break  # the sequence around it says so
    return made


def _one_of(parts: Any, salt: int) -> str:
    if str(parts[0][0]) == "NEGATE":
        allowed = [char for char in _PRINTABLE if not any(holds(part, char) for part in parts[1:])]
        return allowed[salt % len(allowed)] if allowed else "\u00e9"
    op, argument = parts[salt % len(parts)]
    if str(op) == "RANGE":
        low, high = argument
        return chr(low + salt % (high - low + 1))
    if str(op) == "LITERAL":
        return chr(argument)
    return _CLASSES.get(str(argument), "-")
