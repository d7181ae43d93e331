"""JSON schema -> a value that satisfies it, always the same one.

    const, enum, default    the given value
    $ref, allOf             followed and merged; a recursive reference ends where the schema permits it (null, an empty
                            array, an absent property)
    anyOf, oneOf, type: []  the first branch whose value the whole schema accepts
    object                  every property that fits; array: one item, or as many as required
    string                  its format's example, a match of its pattern, or a word of the prompt
    number                  the lowest value that fits

The work is bounded by depth and by the number of created values. If no value is found within these
bounds, `Unsatisfiable` is raised, which becomes a 400 that names the field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from typing import Any, Final

from gateway.simulator.request import JsonObject
from gateway.simulator.schema_check import Document, Unsatisfiable, accepts, property_schemas, resolve, same
from gateway.simulator.schema_pattern import match_candidates

_MAX_VALUES: Final = 5_000
_MAX_DEPTH: Final = 40
_MAX_CHARACTERS: Final = 100_000
_MAX_ITEMS: Final = 1_000
_SAME_REFERENCE: Final = 2

_FORMATS: Final[Mapping[str, str]] = {
    "date-time": "2026-04-24T09:30:00Z",
    "date": "2026-04-24",
    "time": "09:30:00Z",
    "duration": "P1DT2H",
    "email": "user@example.com",
    "idn-email": "user@example.com",
    "hostname": "www.example.com",
    "idn-hostname": "www.example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "6f1c2b1e-7c1d-4f0a-9b62-3a5d1c0e8f47",
    "uri": "https://www.example.com/",
    "uri-reference": "/example",
    "iri": "https://www.example.com/",
    "iri-reference": "/example",
    "uri-template": "/example/{id}",
    "json-pointer": "/example",
    "relative-json-pointer": "0/example",
    "regex": "^example$",
}


def fill(schema: object, word: str = "example") -> object:
    """Returns a value for `schema`. Free strings contain `word`. Raises `Unsatisfiable`."""
    filler = _Filler(schema, word)
    try:
        value = filler.value(schema, (), 0)
        if accepts(schema, value, schema):
            return value
    except (TypeError, ValueError, AttributeError, KeyError, ArithmeticError) as error:
        # A schema is untrusted data: a keyword of the wrong type causes one of these.
        msg = str(error) if isinstance(error, Unsatisfiable) else f"the schema is malformed: {error}"
        raise Unsatisfiable(msg) from error
    msg = "no value was found that satisfies the schema"
    raise Unsatisfiable(msg)


class _Filler:
    """One run over one schema. Mutable: the count of values made so far."""

    def __init__(self, root: object, word: str) -> None:
        self._root = Document(root)
        self._word = word
        self._made = 0
        self._makers: dict[str, Callable[[JsonObject, tuple[str, ...], int], object]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "number": self._number,
            "boolean": lambda _schema, _trail, salt: salt % 2 == 0,
            "null": lambda _schema, _trail, _salt: None,
        }

    def value(self, schema: object, path: tuple[str, ...], salt: int) -> object:
        """Returns a value.

        `path` has one mark per level, references by their pointer. `salt` makes equal items different.
        """
        self._made += 1
        if self._made > _MAX_VALUES or len(path) > _MAX_DEPTH:
            msg = "the schema is too large or too deep"
            raise Unsatisfiable(msg)
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            msg = "nothing satisfies the schema false" if schema is False else "a schema must be an object"
            raise Unsatisfiable(msg)
        flat, path = self._flattened(schema, path)
        return self._first_accepted(flat, self._alternatives(flat, path, salt))

    def _flattened(self, schema: JsonObject, path: tuple[str, ...]) -> tuple[JsonObject, tuple[str, ...]]:
        """Returns the schema with `$ref` and `allOf` merged in."""
        while "$ref" in schema or "allOf" in schema:
            rest = {key: part for key, part in schema.items() if key not in ("$ref", "allOf")}
            parts = list(schema.get("allOf", ()))
            if "$ref" in schema:
                ref = str(schema["$ref"])
                if path.count(ref) >= _SAME_REFERENCE:
                    msg = f"{ref} comes back to itself"
                    raise Unsatisfiable(msg)
                path = (*path, ref)
                parts.append(resolve(schema, self._root.schema))
            for part in parts:
                self._root.spend(len(rest) + 1)
                rest = _merged(rest, part)
            schema = rest
        return schema, path

    def _chosen(self, schema: JsonObject, values: Iterable[object]) -> object:
        """Returns the first of some finished values that the schema accepts."""
        for made in values:
            if accepts(schema, made, self._root):
                return made
        msg = "nothing satisfies the schema"
        raise Unsatisfiable(msg)

    def _first_accepted(self, schema: JsonObject, alternatives: Iterator[Callable[[], object]]) -> object:
        """Returns the first value that can be created and that the schema accepts."""
        reason = "nothing satisfies the schema"
        for make in alternatives:
            try:
                made = make()
                if accepts(schema, made, self._root):
                    return made
            except Unsatisfiable as error:
                reason = str(error)
        raise Unsatisfiable(reason)

    def _alternatives(self, schema: JsonObject, path: tuple[str, ...], salt: int) -> Iterator[Callable[[], object]]:
        given = [schema["const"]] if "const" in schema else schema.get("enum")
        if given is not None:
            yield lambda: self._chosen(schema, _turned(given, salt))
            return
        branches = _branches(schema, salt)
        if branches:
            for branch in branches:
                yield partial(self._branch, schema, branch, (*path, "|"), salt)
            return
        wanted = schema.get("type") or _implied_type(schema)
        for kind in wanted if isinstance(wanted, list) else [wanted]:
            maker = self._makers.get(str(kind))
            if maker is not None:
                # Other salts give other values, which helps where `not` forbids the first one.
                tries = range(4) if "not" in schema else range(1)
                yield from (partial(maker, schema, path, salt + more) for more in tries)

    def _branch(self, schema: JsonObject, branch: list[object], path: tuple[str, ...], salt: int) -> object:
        rest = {key: part for key, part in schema.items() if key not in _branching(schema)}
        for part in branch:
            rest = _merged(rest, part)
        return self.value(rest, path, salt)

    def _object(self, schema: JsonObject, path: tuple[str, ...], salt: int) -> object:
        required = list(schema.get("required", ()))
        for name, needed in schema.get("dependentRequired", {}).items():
            required += [other for other in needed if name in required and other not in required]
        optional = [name for name in schema.get("properties", {}) if name not in required]
        made: JsonObject = {}
        for name in chain(required, optional):
            if len(made) >= schema.get("maxProperties", math.inf) and name not in required:
                break
            try:
                part: object = {"allOf": property_schemas(schema, name, self._root)}
                made[name] = self.value(part, (*path, "."), salt)
            except Unsatisfiable:
                if name in required:
                    raise
        for number in range(min(schema.get("minProperties", 0) - len(made), _MAX_ITEMS)):
            name = f"extra_{number + 1}"
            made[name] = self.value({"allOf": property_schemas(schema, name, self._root)}, (*path, "."), salt)
        declared = {name: made[name] for name in schema.get("properties", {}) if name in made}
        return declared | made

    def _array(self, schema: JsonObject, path: tuple[str, ...], salt: int) -> object:
        first = list(schema.get("prefixItems", ()))
        minimum = schema.get("minItems", 0)
        maximum = min(schema.get("maxItems", _MAX_ITEMS), _MAX_ITEMS)
        contained = schema.get("minContains", 1) if "contains" in schema else 0
        wanted = min(max(minimum, contained, len(first), 1), maximum)
        made: list[object] = []
        for index in range(wanted):
            part = first[index] if index < len(first) else schema.get("items", True)
            if len(first) <= index < len(first) + contained:
                part = {"allOf": [part, schema["contains"]]}
            try:
                made.append(self._item(part, (*path, "[]"), salt + index, made if schema.get("uniqueItems") else []))
            except Unsatisfiable:
                if index < max(minimum, contained):
                    raise
                break
        return made

    def _item(self, schema: object, path: tuple[str, ...], salt: int, taken: list[object]) -> object:
        for more in range(len(taken) + 8):
            made = self.value(schema, path, salt + more)
            if not any(same(made, other) for other in taken):
                return made
        msg = "not enough different items"
        raise Unsatisfiable(msg)

    def _string(self, schema: JsonObject, _trail: tuple[str, ...], salt: int) -> object:
        minimum = schema.get("minLength", 0)
        if minimum > _MAX_CHARACTERS:
            msg = f"minLength {minimum} is more than {_MAX_CHARACTERS}"
            raise Unsatisfiable(msg)
        maximum = schema.get("maxLength", _MAX_CHARACTERS)
        word = self._word if not salt else f"{salt + 1} {self._word}"
        plain = word[:maximum].ljust(minimum, "x")
        known = _FORMATS.get(str(schema.get("format")))
        candidates: Iterator[str] = iter((plain,))
        if "pattern" in schema:
            turns = (match_candidates(str(schema["pattern"]), minimum, salt + more) for more in range(8))
            matching = chain.from_iterable(turns)
            candidates = chain((known,) if known else (), matching, candidates)
        elif known:
            candidates = chain(_varied(known, minimum, salt), candidates if salt == 0 and minimum > len(known) else ())
        return self._chosen(schema, candidates)

    def _integer(self, schema: JsonObject, _trail: tuple[str, ...], salt: int) -> object:
        low, high = _bounds(schema)
        step = schema.get("multipleOf") or 1
        if isinstance(step, float):
            step = int(step) if step.is_integer() else 1
        bottom = math.ceil(low) if low > -math.inf else min(0, math.floor(high) - 100 * step) if high < 0 else 0
        start = math.ceil(bottom / step) * step if abs(bottom) < 2**53 else -(-bottom // step) * step
        candidates = (start + (salt + more) * step for more in range(3))
        return self._chosen(schema, chain(candidates, (start, start + step)))

    def _number(self, schema: JsonObject, _trail: tuple[str, ...], salt: int) -> object:
        low, high = _bounds(schema)
        step = schema.get("multipleOf")
        bottom = low if low > -math.inf else min(0.0, high - 1)
        if step:
            count = math.ceil(bottom / step)
            return self._chosen(schema, ((count + salt + more) * step for more in range(200)))
        top = high if high < math.inf else bottom + 2 + abs(bottom)
        part = (salt % 8 + 1) / 16
        spread = (bottom + (top - bottom) * part, bottom / 2 + top / 2, bottom, top, 0)
        return self._chosen(schema, spread)


def _turned(options: list[object], salt: int) -> list[object]:
    turn = salt % len(options) if options else 0
    return [*options[turn:], *options[:turn]]


def _branching(schema: JsonObject) -> tuple[str, ...]:
    """Returns the keywords that leave a choice, one group at a time."""
    groups = (("anyOf",), ("oneOf",), ("if", "then", "else"))
    return next((group for group in groups if group[0] in schema), ())


def _branches(schema: JsonObject, salt: int) -> list[list[object]]:
    """Returns the schemas to merge in for each alternative."""
    keywords = _branching(schema)
    if not keywords:
        return []
    if keywords[0] == "if":
        return [[schema["if"], schema.get("then", True)], [schema.get("else", True)]]
    return [[option] for option in _turned(schema[keywords[0]], salt)]


def _bounds(schema: JsonObject) -> tuple[float, float]:
    low = max(schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf))
    high = min(schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf))
    return low, high


def _varied(known: str, minimum: int, salt: int) -> Iterator[str]:
    """Yields a format's example, and then longer or different ones that most formats still permit."""
    if salt == 0:
        yield known
    if known.startswith(("http", "/")):
        yield f"{known}{salt}".ljust(minimum, "x")
    if "@" in known:
        yield f"user{salt}@{'example'.ljust(min(60, max(0, minimum - 12)), 'x')}.com"
    if known.endswith(("Z", "-24", ".1", "::1", "7", ".com")):
        digit = f"{salt % 8 + 1}"
        yield {"Z": known.replace("09:", f"0{digit}:"), "4": known.replace("-24", f"-1{digit}")}.get(
            known[-1], f"h{digit}.example.com" if known.endswith(".com") else known[:-1] + digit
        )
    if salt:
        yield known  # items may be equal, and not every example has variants


def _implied_type(schema: JsonObject) -> str:
    hints = {
        "object": ("properties", "required", "additionalProperties", "patternProperties", "minProperties"),
        "array": ("items", "prefixItems", "minItems", "contains"),
        "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    }
    return next((kind for kind, keywords in hints.items() if any(word in schema for word in keywords)), "string")


def _merged(left: JsonObject, right: object) -> JsonObject:
    """Merges two schemas, for the keywords where that needs more than taking the right one."""
    if right is True:
        return left
    if not isinstance(right, dict):
        msg = "nothing satisfies the schema false"
        raise Unsatisfiable(msg)
    merged = dict(left)
    for key, part in right.items():
        merged[key] = _both(key, left[key], part) if key in left else part
    return merged


_HIGHER: Final = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_LOWER: Final = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


def _both(key: str, left: Any, right: Any) -> Any:
    """Merges the values of one keyword in two schemas."""
    if key in _HIGHER:
        both: Any = max(left, right)
    elif key in _LOWER:
        both = min(left, right)
    elif key == "properties":
        both = left | {name: {"allOf": [left[name], part]} if name in left else part for name, part in right.items()}
    elif key in ("required", "allOf"):
        both = [*left, *(entry for entry in right if entry not in left)]
    elif key == "enum":
        both = [option for option in left if any(same(option, other) for other in right)]
    elif key == "items":
        both = {"allOf": [left, right]}
    elif key == "type":
        ours, theirs = (kind if isinstance(kind, list) else [kind] for kind in (left, right))
        shared = [kind for kind in ours if kind in theirs or (kind == "integer" and "number" in theirs)]
        both = shared or [kind for kind in theirs if kind == "integer" and "number" in ours]
    else:
        both = right
    return both
