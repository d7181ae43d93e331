"""JSON that satisfies the requested schema, checked by jsonschema with its format checker."""

import contextlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gateway.simulator.schema_check import Unsatisfiable, accepts
from gateway.simulator.schema_fill import fill
from gateway.simulator.schema_match import found_in
from tests.simulator.client import Simulator, text_of

Schema = dict[str, Any]


def check(schema: object, value: object) -> None:
    Draft202012Validator(cast("Schema", schema), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


SCHEMAS: Final[Mapping[str, Schema | bool]] = {
    "anything": True,
    "empty": {},
    "const": {"const": {"a": [1, None, True]}},
    "enum of mixed types": {"enum": [None, 3, "x"]},
    "nullable": {"type": ["string", "null"], "minLength": 3},
    "anyOf with siblings": {"type": "object", "required": ["a"], "anyOf": [{"properties": {"a": {"type": "integer"}}}]},
    "oneOf that overlaps": {"oneOf": [{"type": "integer"}, {"type": "number", "minimum": 5}]},
    "oneOf by a constant": {
        "oneOf": [
            {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]} for kind in ("a", "b")
        ]
    },
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 8}, {"multipleOf": 7}]},
    "not": {"type": "string", "not": {"const": "example"}},
    "if": {
        "type": "object",
        "properties": {"k": {"enum": ["a"]}, "v": {"type": "integer"}},
        "required": ["k"],
        "if": {"properties": {"k": {"const": "a"}}},
        "then": {"required": ["v"]},
    },
    "a list that ends": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "string"},
                    "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "a tree": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["name", "children"],
    },
    "an optional loop": {"type": "object", "properties": {"me": {"$ref": "#"}}},
    "escaped reference": {"$defs": {"a/b~c": {"type": "null"}}, "$ref": "#/$defs/a~1b~0c"},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": False, "minItems": 2},
    "contains": {"type": "array", "contains": {"type": "integer", "minimum": 9}, "minContains": 2, "minItems": 4},
    "unique objects": {
        "type": "array",
        "minItems": 5,
        "uniqueItems": True,
        "items": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
    },
    "unique constants": {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"enum": ["a", "b", "c"]}},
    "free properties": {"type": "object", "minProperties": 3, "additionalProperties": {"type": "integer"}},
    "property patterns": {
        "type": "object",
        "patternProperties": {"^n_": {"type": "number"}},
        "required": ["n_a"],
        "additionalProperties": False,
    },
    "dependent": {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "dependentRequired": {"a": ["b"]},
    },
    "at most two": {
        "type": "object",
        "properties": {name: {"type": "string"} for name in "abcd"},
        "maxProperties": 2,
    },
    "exclusive": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
    "cents": {"type": "number", "multipleOf": 0.01, "minimum": 19.99},
    "negative": {"type": "integer", "exclusiveMaximum": -5, "multipleOf": 3},
    "long text": {"type": "string", "minLength": 500, "maxLength": 500},
}
PATTERNS: Final = (
    r"^\d{3}-\d{4}$",
    r"^[A-Z]{2}[0-9]{6}$",
    r"^(red|green|blue)$",
    r"^[^\s@]+@[^\s@]+\.[a-z]{2,}$",
    r"^#[0-9a-fA-F]{6}$",
    r"^\+?[1-9]\d{1,14}$",
    r"^[a-z][a-z0-9_]*$",
    r"^(?:[01]\d|2[0-3]):[0-5]\d$",
    r"^\w+\s\w+$",
    r"^[\w.-]+$",
    r"[^a-z]",
    r"^.{5}$",
)


def doubled(depth: int) -> Schema:
    """Each level names the next one twice, as one schema and as another's part."""
    levels = {f"l{at}": {"allOf": [{"$ref": f"#/$defs/l{at + 1}"}] * 2} for at in range(depth)}
    return {"$defs": {**levels, f"l{depth}": {"minLength": 1}}, "$ref": "#/$defs/l0", "type": "string"}


def nested(depth: int) -> Schema:
    found: Schema = {"type": "string"}
    for _ in range(depth):
        found = {"allOf": [found, {"allOf": [{"minLength": 1}]}]}
    return found


HOSTILE: Final[dict[str, Schema]] = {
    "nested repeats": {"type": "string", "pattern": "^([a-z]+)*[0-9]$"},
    "nested repeats, long": {"type": "string", "pattern": "^([a-z]+)*[0-9]$", "minLength": 60},
    "branches that are one": {"type": "string", "pattern": "^(a|a)*b$", "minLength": 60},
    "optional parts": {"type": "string", "pattern": "^(a?){64}a{64}$", "maxLength": 64},
    "repeats of repeats": {"type": "string", "pattern": "(a{1000}){1000}"},
    "a property's name": {"patternProperties": {"^(a+)+$": {}}, "properties": {"a" * 60 + "b": {"type": "null"}}},
    "allOf that doubles": doubled(18),
    "allOf that doubles further": doubled(30),
    "nested allOf": nested(18),
    "nested allOf, deep": nested(60),
}
FORMATS: Final = ("date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "regex")


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_a_schema_gets_a_value_that_satisfies_it(schema: Schema | bool) -> None:
    check(schema, fill(schema))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("more", [{}, {"minLength": 5, "maxLength": 20}])
def test_a_pattern_is_matched(pattern: str, more: dict[str, int]) -> None:
    schema = {"type": "string", "pattern": pattern, **more}
    check(schema, fill(schema))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("schema", HOSTILE.values(), ids=HOSTILE.keys())
def test_no_schema_makes_it_hang(schema: Schema) -> None:
    with contextlib.suppress(Unsatisfiable):
        fill(schema)


@given(st.text("ab1\n A", max_size=12))
@pytest.mark.parametrize(
    "pattern",
    [
        *PATTERNS,
        r"a|b1",
        r"(?i)aa",
        r"(ab?)+$",
        r"\bA",
        r"\B1",
        r"(?=a)a.",
        r"(?!a)b",
        r"a{2,3}b?",
        r"^$",
        r"(a*)*1",
        r"\D\S",
    ],
)
def test_a_pattern_is_found_where_python_finds_it(pattern: str, text: str) -> None:
    assert found_in(pattern, text, lambda _: None) == (re.search(pattern, text) is not None)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gets_an_example_of_it_and_a_list_gets_different_ones(name: str) -> None:
    check({"type": "string", "format": name}, fill({"type": "string", "format": name}))
    several = {"type": "array", "minItems": 2, "uniqueItems": True, "items": {"type": "string", "format": name}}
    if name not in {"duration", "regex"}:
        check(several, fill(several))


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "integer", "minimum": 5, "maximum": 4},
        {"type": "string", "minLength": 10_000_000},
        {"enum": []},
        {"$ref": "#/nowhere"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#"},
        {"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]},
        {"type": "array", "minItems": 3, "uniqueItems": True, "items": {"type": "boolean"}},
        {"type": "array", "minItems": 1_000_000_000},
        {"type": "string", "pattern": "("},
        {"type": 5},
        {"type": "object", "properties": 5},
        {"anyOf": "x"},
        {"minimum": "x", "type": "integer"},
        {"const": 1, "type": "string"},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        5,
    ],
)
def test_what_cannot_be_satisfied_is_said_so(schema: object) -> None:
    with pytest.raises(Unsatisfiable):
        fill(schema)


def test_a_deep_schema_is_refused_and_not_a_crash() -> None:
    schema: Schema = {"type": "string"}
    for _ in range(400):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    with pytest.raises(Unsatisfiable, match="deep"):
        fill(schema)


scalars = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text(max_size=5))


@st.composite
def leaves(draw: st.DrawFn) -> Schema:
    low = draw(st.integers(-1000, 1000))
    span = draw(st.integers(10, 1000))
    length = draw(st.integers(0, 20))
    return draw(
        st.sampled_from(
            [
                {"type": "boolean"},
                {"type": "null"},
                {"type": "integer"},
                {"type": "integer", "minimum": low, "maximum": low + span},
                {"type": "integer", "exclusiveMinimum": low, "exclusiveMaximum": low + span, "multipleOf": 3},
                {"type": "number", "minimum": low / 8, "maximum": low / 8 + span / 64},
                {"type": "number", "exclusiveMinimum": low / 8},
                {"type": "number", "exclusiveMaximum": low / 8},
                {"type": "string", "minLength": length},
                {"type": "string", "minLength": length, "maxLength": length + span},
                {"type": "string", "maxLength": length},
                {"type": "string", "format": draw(st.sampled_from(FORMATS))},
                {"type": "string", "pattern": draw(st.sampled_from(PATTERNS))},
                {"type": ["string", "null"]},
                {"enum": draw(st.lists(scalars, min_size=1, max_size=4))},
                {"const": draw(scalars)},
            ]
        )
    )


def containers(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    names = st.text('abcdefgh_ \u00e9"\\', min_size=1, max_size=4)

    def as_object(properties: dict[str, Schema], strict: bool) -> Schema:
        required = {"required": sorted(properties), "additionalProperties": False} if strict else {}
        return {"type": "object", "properties": properties, **required}

    def as_array(items: Schema, least: int, more: int) -> Schema:
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + more}

    return st.one_of(
        st.builds(as_object, st.dictionaries(names, inner, max_size=4), st.booleans()),
        st.builds(as_array, inner, st.integers(0, 3), st.integers(0, 3)),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"allOf": [part]}, inner),
    )


schemas = st.recursive(leaves(), containers, max_leaves=8)


@given(schemas)
@example({"type": "array", "items": {"type": "string", "format": "duration"}, "minItems": 2})
def test_every_generated_schema_is_satisfied(schema: Schema) -> None:
    value = fill(schema)
    check(schema, value)
    assert json.loads(json.dumps(value)) == value
    assert fill(schema) == value


@given(schemas)
def test_a_generated_schema_by_reference_is_satisfied_as_well(schema: Schema) -> None:
    whole = {
        "$defs": {"part": schema},
        "type": "object",
        "properties": {"one": {"$ref": "#/$defs/part"}, "many": {"type": "array", "items": {"$ref": "#/$defs/part"}}},
        "required": ["one", "many"],
        "additionalProperties": False,
    }
    check(whole, fill(whole))


values = st.recursive(
    scalars | st.floats(-1e6, 1e6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=5,
)


@given(schemas, values)
def test_the_simulators_own_check_agrees_with_jsonschema(schema: Schema, value: object) -> None:
    assert accepts(schema, value, schema) == Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize("stream", [False, True])
def test_structured_output_over_http_satisfies_the_schema(simulator: Simulator, stream: bool) -> None:
    schema = SCHEMAS["a list that ends"]
    text = {"format": {"type": "json_schema", "name": "list", "schema": schema, "strict": True}}
    answer = simulator.events("m", text=text)[-1]["response"] if stream else simulator.answer("m", text=text)
    check(schema, json.loads(text_of(answer)))


def test_json_object_format_answers_an_object(simulator: Simulator) -> None:
    answer = simulator.answer("m", text={"format": {"type": "json_object"}})
    assert isinstance(json.loads(text_of(answer)), dict)
