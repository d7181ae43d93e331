"""Whether a value satisfies a JSON schema. `schema_fill` chooses between candidates with it.

It supports the keywords of draft 2020-12 that a schema for structured output may use, with one function per type of
value. `format` is not checked, because the filler only creates well-formed values. No schema library is needed at run
time; the tests compare both files with one.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from gateway.simulator.request import JsonObject
from gateway.simulator.schema_match import NotFollowed, found_in

MAX_DEPTH: Final = 80
_MAX_STEPS: Final = 100_000  # for one value: some tenths of a second


class Unsatisfiable(ValueError):
    """No value was found for a schema, or it is too deep, or not a schema at all."""


class Document:
    """A whole schema, and the work that may still be done for it. Mutable: `_left`."""

    def __init__(self, schema: object) -> None:
        self.schema = schema
        self._left = _MAX_STEPS

    def spend(self, steps: int = 1) -> None:
        """Counts steps. Raises `Unsatisfiable` where there were too many."""
        self._left -= steps
        if self._left < 0:
            msg = "the schema takes too long to satisfy"
            raise Unsatisfiable(msg)


def resolve(schema: JsonObject, root: object) -> object:
    """Follow one `$ref` (a JSON pointer into `root`). Raises `Unsatisfiable` where it leads nowhere."""
    ref = schema["$ref"]
    if not isinstance(ref, str) or not ref.startswith("#"):
        msg = f"$ref {ref!r} is not a pointer into this schema"
        raise Unsatisfiable(msg)
    here: Any = root
    for step in ref[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(here, dict) and name in here:
            here = here[name]
        elif isinstance(here, list) and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        else:
            msg = f"$ref {ref!r} leads nowhere"
            raise Unsatisfiable(msg)
    return here


def type_of(value: object) -> str:
    """The JSON type of a value; a whole float counts as an integer, as in the specification."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if isinstance(value, int) or value.is_integer() else "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def same(left: object, right: object) -> bool:
    """JSON equality: 1 is 1.0, but true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == right


def accepts(schema: object, value: object, root: object, depth: int = 0) -> bool:
    """Whether `value` satisfies `schema`. Raises `Unsatisfiable` for an invalid or too complex schema.

    `root`: where references point, the schema itself or the `Document` of a longer piece of work.
    """
    root = root if isinstance(root, Document) else Document(root)
    root.spend()
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict) or depth > MAX_DEPTH:
        msg = "too deep" if isinstance(schema, dict) else "a schema must be an object or a boolean"
        raise Unsatisfiable(msg)
    if "$ref" in schema and not accepts(resolve(schema, root.schema), value, root, depth + 1):
        return False
    kind = type_of(value)
    wanted = schema.get("type")
    if wanted is not None:
        kinds = wanted if isinstance(wanted, list) else [wanted]
        if kind not in kinds and not (kind == "integer" and "number" in kinds):
            return False
    if "const" in schema and not same(schema["const"], value):
        return False
    if "enum" in schema and not any(same(option, value) for option in schema["enum"]):
        return False
    return _by_kind(schema, value, root, depth) and _combined(schema, value, root, depth)


def _by_kind(schema: JsonObject, value: object, root: Document, depth: int) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return _number(schema, value)
    if isinstance(value, str):
        return _string(schema, value, root)
    if isinstance(value, list):
        return _array(schema, value, root, depth)
    return not isinstance(value, dict) or _object(schema, value, root, depth)


def _combined(schema: JsonObject, value: object, root: Document, depth: int) -> bool:
    def holds(part: object) -> bool:
        return accepts(part, value, root, depth + 1)

    if not all(holds(part) for part in schema.get("allOf", ())):
        return False
    if "anyOf" in schema and not any(holds(part) for part in schema["anyOf"]):
        return False
    if "oneOf" in schema and sum(holds(part) for part in schema["oneOf"]) != 1:
        return False
    if "not" in schema and holds(schema["not"]):
        return False
    if "if" in schema:
        return holds(schema.get("then" if holds(schema["if"]) else "else", True))
    return True


def _number(schema: JsonObject, value: float) -> bool:
    step = schema.get("multipleOf")
    return (
        value >= schema.get("minimum", -math.inf)
        and value <= schema.get("maximum", math.inf)
        and value > schema.get("exclusiveMinimum", -math.inf)
        and value < schema.get("exclusiveMaximum", math.inf)
        and (not step or _is_multiple(value, step))
    )


def _is_multiple(value: float, step: float) -> bool:
    if isinstance(value, int) and isinstance(step, int):
        return value % step == 0
    quotient = value / step
    return math.isfinite(quotient) and quotient == int(quotient)


def _string(schema: JsonObject, value: str, root: Document) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        return False
    return "pattern" not in schema or matches(schema["pattern"], value, root)


def matches(pattern: object, value: str, root: Document) -> bool:
    """Search as JSON schema does: unanchored. Raises `Unsatisfiable` for a pattern that cannot be read."""
    try:
        return found_in(str(pattern), value, root.spend)
    except (re.error, OverflowError, RecursionError, NotFollowed) as error:
        msg = f"the pattern {pattern!r} cannot be read: {error}"
        raise Unsatisfiable(msg) from error


def _array(schema: JsonObject, value: list[Any], root: Document, depth: int) -> bool:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
        return False
    first = schema.get("prefixItems", [])
    rest = schema.get("items", True)
    if not all(
        accepts(first[index] if index < len(first) else rest, entry, root, depth + 1)
        for index, entry in enumerate(value)
    ):
        return False
    if schema.get("uniqueItems") and any(
        same(entry, other) for index, entry in enumerate(value) for other in value[:index]
    ):
        return False
    if "contains" in schema:
        found = sum(accepts(schema["contains"], entry, root, depth + 1) for entry in value)
        return bool(schema.get("minContains", 1) <= found <= schema.get("maxContains", math.inf))
    return True


def _object(schema: JsonObject, value: JsonObject, root: Document, depth: int) -> bool:
    if not schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf):
        return False
    if any(name not in value for name in schema.get("required", ())):
        return False
    for name, needed in schema.get("dependentRequired", {}).items():
        if name in value and any(other not in value for other in needed):
            return False
    names = schema.get("propertyNames", True)
    return all(
        accepts(names, name, root, depth + 1)
        and all(accepts(part, entry, root, depth + 1) for part in property_schemas(schema, name, root))
        for name, entry in value.items()
    )


def property_schemas(schema: JsonObject, name: str, root: Document) -> list[object]:
    """The schemas that apply to one property: its own, the patterns', else `additionalProperties`."""
    found = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    found += [part for pattern, part in schema.get("patternProperties", {}).items() if matches(pattern, name, root)]
    return found or [schema.get("additionalProperties", True)]
