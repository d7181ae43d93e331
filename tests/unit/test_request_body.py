"""The few fields of a request that the gateway reads; every other byte goes on as it came."""

import json
import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol.body_changes import with_flag, with_model
from gateway.protocol.dialects.chat import CHAT
from gateway.protocol.dialects.request_fields import MAX_TOKENS
from gateway.protocol.dialects.responses import RESPONSES
from gateway.protocol.request_body import (
    MAX_MODEL_LENGTH,
    RequestBody,
)
from gateway.protocol.request_body import read_request_body as read_as
from gateway.protocol.token_estimates import (
    ATTACHMENT_BYTES_PER_TOKEN,
    BYTES_PER_TOKEN,
    IMAGE_TOKENS,
    estimate_input_tokens,
)

FIELDS = RESPONSES.request.fields


def read_request_body(data: bytes | bytearray) -> RequestBody:
    return read_as(data, RESPONSES.request, needs_input=True)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "openai/gpt-5.2", "input": "Hello", **fields}).encode()


def refusal(data: bytes) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        read_request_body(data)
    return caught.value


def test_the_fields_that_the_gateway_reads() -> None:
    data = body(stream=True, max_output_tokens=5, previous_response_id="resp_1")
    found = read_request_body(data)
    assert (found.body, *found[1:6]) == (data, "openai/gpt-5.2", True, 5, "resp_1", estimate_input_tokens(data))


@pytest.mark.parametrize("field", ["stream", "max_output_tokens", "previous_response_id"])
def test_null_means_absent(field: str) -> None:
    request_body = read_request_body(body(**{field: None}))
    assert (request_body.stream, request_body.max_output_tokens, request_body.previous_response_id) == (
        False,
        None,
        None,
    )


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b'"x"', b"null", b"\xff\xfe", b'{"model":"m","input":"\xff"}'])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    assert refusal(data).code == "invalid_json"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1"])
def test_numbers_that_json_does_not_have_are_refused(number: str) -> None:
    assert refusal(b'{"model":"m","input":"x","n":%b}' % number.encode()).code == "invalid_json"


@pytest.mark.parametrize("value", ["1e400", "-1e400", "9" * 400, "0.1e-999", '"\\ud83d"', '"\\udc00\\ud800"'])
def test_valid_json_that_strict_parsers_refuse_goes_on(value: str) -> None:
    assert read_request_body(b'{"model":"m","input":"x","n":%b}' % value.encode()).model == "m"


@pytest.mark.parametrize("depth", [900, 1_023, 5_000, 1_000_000])
def test_depth_is_an_answer_never_a_crash(depth: int) -> None:
    """The other "input" makes the gateway look at names one by one, which must not recurse either."""
    data = b'{"model":"m","x":{"input":1},"input":[' + b"[" * depth + b"]" * depth + b"]}"
    if depth < 1_000:
        assert read_request_body(data).model == "m"
    else:
        try:
            read_request_body(data)
        except GatewayError as error:
            assert error.code in ("invalid_json", "body_too_large")  # noqa: PT017 - right answers; nothing else is


def test_a_number_of_many_digits_is_an_answer_never_a_crash() -> None:
    assert refusal(b'{"model":"m","input":"x","n":%b}' % (b"9" * 100_000)).code == "invalid_json"


@pytest.mark.parametrize("field", ["model", "input"])
@pytest.mark.parametrize("null", [True, False])
def test_a_missing_field_is_named(field: str, null: bool) -> None:
    fields = json.loads(body())
    if null:
        fields[field] = None
    else:
        del fields[field]
    error = refusal(json.dumps(fields).encode())
    assert (error.code, error.param) == ("missing_field", field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 7),
        ("model", ""),
        ("model", " "),
        ("model", "a\nb"),
        ("model", "\ud83d"),
        ("model", "m" * (MAX_MODEL_LENGTH + 1)),
        ("input", 7),
        ("input", {"role": "user"}),
        ("stream", "yes"),
        ("stream", 2),
        ("stream", [True]),
        ("max_output_tokens", 0),
        ("max_output_tokens", -1),
        ("max_output_tokens", True),
        ("max_output_tokens", 1.5),
        ("max_output_tokens", "5"),
        ("max_output_tokens", MAX_TOKENS + 1),
        ("max_output_tokens", float("1e308")),
        ("previous_response_id", 7),
        ("previous_response_id", "resp_\ud83d"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(field: str, value: object) -> None:
    error = refusal(body(**{field: value}))
    assert (error.code, error.param) == ("invalid_field", field)


@pytest.mark.parametrize("length", [1, MAX_MODEL_LENGTH])
def test_a_model_of_allowed_length_is_read(length: int) -> None:
    assert read_request_body(body(model="m" * length)).model == "m" * length


# Names that occur twice


def spelt(name: str, escaped: set[int]) -> str:
    return '"' + "".join(f"\\u{ord(c):04x}" if i in escaped else c for i, c in enumerate(name)) + '"'


@given(
    name=st.sampled_from(sorted(FIELDS)),
    escapes=st.sets(st.integers(0, 30)),
    extra=st.lists(st.sampled_from(['"x":{"model":1,"input":[{"stream":2}]}', '"y":"}]{[\\""']), max_size=2),
)
def test_a_name_that_occurs_twice_is_refused_however_it_is_spelt(
    name: str, escapes: set[int], extra: list[str]
) -> None:
    members = ['"model":"m"', '"input":"x"', *extra]
    if name not in ("model", "input"):
        members.append(f'"{name}":null')
    members.insert(len(members) // 2, f"{spelt(name, escapes)} : null")
    error = refusal(("{" + ",".join(members) + "}").encode())
    assert (error.code, error.param) == ("duplicate_field", name)


@given(name=st.sampled_from(sorted(FIELDS)), flips=st.sets(st.integers(0, 20), min_size=1))
@example(name="stream", flips={0})
def test_a_name_in_other_case_is_refused(name: str, flips: set[int]) -> None:
    other = "".join(c.upper() if i in flips else c for i, c in enumerate(name))
    if other != name:
        error = refusal(body(**{other: 1}))
        assert (error.code, error.param) == ("duplicate_field", name)


def test_a_letter_that_folds_to_another_is_other_case_too() -> None:
    assert refusal(b'{"model":"m","input":"x","\xc5\xbftream":true}').code == "duplicate_field"


def test_the_same_names_deeper_are_nobodys_business() -> None:
    nested = {"model": 1, "input": [{"stream": "x", "Model": 2}], "max_output_tokens": "many"}
    assert read_request_body(body(metadata=nested, tools=[nested, nested])).model == "openai/gpt-5.2"


def test_other_names_may_occur_twice() -> None:
    assert read_request_body(b'{"model":"m","input":"x","user":1,"user":2}').model == "m"


# Renaming

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("model"), inner, max_size=3)
    ),
    max_leaves=12,
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """A valid body in any spacing and spelling, and where its model's value stands."""
    other_names = (st.text(string.printable + '\u00e9"\\', max_size=8) | st.sampled_from(['x"model', "model "])).filter(
        lambda name: name.casefold() not in FIELDS
    )
    members = [
        (json.dumps(name, ensure_ascii=draw(st.booleans())), json.dumps(draw(json_values)))
        for name in draw(st.lists(other_names, unique=True, max_size=4))
    ]
    members.append(('"input"', json.dumps(draw(st.text(max_size=20) | st.lists(json_values, max_size=3)))))
    name = draw(st.sampled_from(['"model"', '"mod\\u0065l"', '"\\u006d\\u006F\\u0064el"']))
    value = json.dumps(draw(st.sampled_from(["o4-mini", "model", 'quo"ted', "back\\slash", "\u00e9"])))
    space = st.sampled_from(["", " ", "\n", "\t\r\n "])
    at = draw(st.integers(0, len(members)))
    text = draw(space) + "{"
    start = end = 0
    for number, (one, content) in enumerate([*members[:at], (name, value), *members[at:]]):
        text += ("," if number else "") + draw(space) + one + draw(space) + ":" + draw(space)
        if number == at:
            start = len(text.encode())
        text += content
        if number == at:
            end = len(text.encode())
        text += draw(space)
    return (text + "}").encode(), start, end


@given(bodies(), st.sampled_from(["gpt-5.2", 'a "quoted" name', "\u00fc/ber"]))
def test_renaming_the_model_changes_no_other_byte(made: tuple[bytes, int, int], model: str) -> None:
    data, start, end = made
    renamed = with_model(data, model)
    assert renamed.startswith(data[:start])
    assert renamed.endswith(data[end:])
    assert json.loads(renamed) == {**json.loads(data), "model": model}
    assert read_request_body(renamed).model == model


@pytest.mark.parametrize(
    "data",
    [
        b'{"x":{"model":"a"},"mod\\u0065l":"a","input":"i"}',
        b'{"x\\"model":"a","mod\\u0065l":"a","input":"i"}',
        b'{"input":[{"model":"a"},{"model":"a"}],"model":"a"}',
        b'{"model":"a","input":"\\"model\\":\\"a\\""}',
    ],
)
def test_only_the_requests_own_model_is_renamed(data: bytes) -> None:
    renamed = with_model(data, "new")
    assert json.loads(renamed) == {**json.loads(data), "model": "new"}
    assert len(renamed) == len(data) + 2


def test_renaming_takes_one_pass_over_the_body() -> None:
    """A pass for each "model" in it would take hours here; the suite's time limit is the bound."""
    data = b'{"input":[' + b'{"model":"m"},' * 90_000 + b'1],"model":"x"}'
    assert with_model(data, "new").endswith(b'"model":"new"}')


# What a body may hold


@given(st.text(max_size=2_000))
@example("input_image")
@example('"type": "input_image"')
@example("a;base64," + "A" * 1_000)
def test_text_counts_by_its_bytes(text: str) -> None:
    data = json.dumps({"model": "m", "input": text}).encode()
    assert estimate_input_tokens(data) == -(-len(data) // BYTES_PER_TOKEN)


def test_an_image_counts_as_one_whatever_its_bytes() -> None:
    def of(size: int) -> int:
        url = "data:image/png;base64,iVBORw0KGgo" + "A" * size
        return estimate_input_tokens(body(input=[{"content": [{"type": "input_image", "image_url": url}]}]))

    assert of(1_000_000) == of(2_000)
    assert of(2_000) > IMAGE_TOKENS


def test_a_document_counts_by_its_bytes_but_less_than_text() -> None:
    data = body(
        input=[{"content": [{"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi" + "A" * 16_000}]}]
    )
    assert 16_000 // ATTACHMENT_BYTES_PER_TOKEN <= estimate_input_tokens(data) < 16_000 // BYTES_PER_TOKEN


@given(st.lists(st.sampled_from([";base64,", "data:image/", '"', "AAAA", '"input_image"', "\\"])).map("".join))
def test_the_estimate_is_never_negative_and_never_fails(text: str) -> None:
    assert estimate_input_tokens(text.encode()) >= 0


# Asking for a stream's usage where its caller did not


SPACES = st.sampled_from(["", " ", "\n\t "])
OPTIONS = st.none() | st.dictionaries(
    st.sampled_from(["include_obfuscation", "x", "a\u00e9"]) | st.just("include_usage"),
    st.booleans()
    | st.none()
    | st.lists(st.integers(), max_size=3)
    | st.dictionaries(st.text(max_size=3), st.text(max_size=3)),
    max_size=3,
)


@given(OPTIONS, st.booleans(), st.data())
def test_usage_is_asked_for_and_every_other_option_stays(
    options: dict[str, Any] | None, there: bool, data: st.DataObject
) -> None:
    fields = {"model": "m", "messages": [{"content": "stream_options"}], "stream": True, "n": 1}
    if there:
        fields["stream_options"] = options
    names = data.draw(st.permutations(sorted(fields)))
    separators = (data.draw(SPACES) + "," + data.draw(SPACES), data.draw(SPACES) + ":" + data.draw(SPACES))
    text = json.dumps({name: fields[name] for name in names}, separators=separators).encode()
    asked = json.loads(with_flag(text, "stream_options", b"include_usage"))
    assert asked == {**fields, "stream_options": {**((options or {}) if there else {}), "include_usage": True}}
    assert read_as(text, CHAT.request).usage_unasked == ((options or {}).get("include_usage") is not True or not there)
    assert not read_as(with_flag(text, "stream_options", b"include_usage"), CHAT.request).usage_unasked


def test_stream_options_that_are_no_object_are_left_to_the_provider() -> None:
    text = b'{"model":"m","messages":[],"stream":true,"stream_options":[1]}'
    assert not read_as(text, CHAT.request).usage_unasked


def test_an_answer_in_one_piece_reports_its_usage_anyway() -> None:
    assert not read_as(b'{"model":"m","messages":[]}', CHAT.request).usage_unasked


def test_choices_multiply_what_may_be_put_out() -> None:
    request = read_as(b'{"model":"m","messages":[],"n":3,"max_completion_tokens":100,"max_tokens":7}', CHAT.request)
    assert (request.max_output_tokens, request.bounds.runs, request.bounds.choices) == (300, 3, 3)
