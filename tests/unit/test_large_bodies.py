"""A large body is decoded without its attachments, in slices, and tells the same as a small one."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol.body_changes import with_flag, with_members, with_model, with_output_bound
from gateway.protocol.dialects.chat import CHAT
from gateway.protocol.dialects.responses import RESPONSES
from gateway.protocol.request_body import RequestBody
from gateway.protocol.request_body import read_request_body as read_as
from tests.support.large_bodies import large_bodies
from tests.unit.test_request_body import bodies, body


def read_request_body(data: bytes) -> RequestBody:
    return read_as(data, RESPONSES.request, needs_input=True)


ODD = st.sampled_from(
    ["A" * 30, "QUJD", '\\"', "\\", "\\u00", "\n", "\x7f", "é", '"', '","model":"x', "\\u006dodel", ";base64,"]
)


@st.composite
def bodies_with_attachments(draw: st.DrawFn) -> bytes:
    """JSON, or nearly: data URLs whose content may be anything, in the input and where none belongs."""
    url = st.builds(
        "data:{};base64,{}".format, st.sampled_from(["image/png", "application/pdf"]), st.lists(ODD).map("".join)
    )
    parts = [f'{{"type":"input_image","image_url":"{draw(url)}"}}' for _ in range(draw(st.integers(1, 3)))]
    model = draw(st.one_of(st.just("openai/gpt-5.2"), url))
    return f'{{"input":[{",".join(parts)}],"model":"{model}","user":"{draw(url)}"}}'.encode()


def outcome(data: bytes) -> RequestBody | tuple[str, str | None]:
    try:
        return read_request_body(data)._replace(places=None)
    except GatewayError as error:
        return error.code, error.param


@given(bodies_with_attachments())
def test_a_body_is_read_the_same_with_and_without_its_attachments(data: bytes) -> None:
    whole = outcome(data)
    with large_bodies():
        assert outcome(data) == whole


def test_a_long_attachment_is_never_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[int] = []
    real = orjson.loads

    def noted(text: bytes) -> Any:
        parsed.append(len(text))
        return real(text)

    monkeypatch.setattr(orjson, "loads", noted)
    data = body(input=[{"type": "input_image", "image_url": "data:image/png;base64," + "QUJD" * 1_000_000}])
    assert read_request_body(data).body is data
    assert parsed
    assert sum(parsed) < 1000


@given(bodies(), st.sampled_from(["gpt-5.2", 'a "quoted" name']), st.sampled_from([16, 60, 1000]))
def test_renaming_the_model_of_a_large_body_changes_no_other_byte(
    made: tuple[bytes, int, int], model: str, slice_bytes: int
) -> None:
    data = made[0]
    with large_bodies(slice_bytes):
        places = read_request_body(data).places
    assert places is not None
    assert with_members(data, places, {"model": orjson.dumps(model)}, asks_usage=False) == with_model(data, model)
    assert with_members(data, places, {}, asks_usage=False) is data


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        b'{"model":"a","model":"b","input":""}',
        b'{"mod\\u0065l":"a","x":[1,2,3],"model":"b","input":""}',
        b'{"mod\\u0065l":"a","x":{"model":1},"\\u006dodel":"b","input":""}',
    ],
)
def test_a_field_that_occurs_twice_is_refused_whatever_the_bodys_size(data: bytes, large: bool) -> None:
    with large_bodies(16) if large else nullcontext(), pytest.raises(GatewayError) as refused:
        read_request_body(data)
    assert (refused.value.code, refused.value.param) == ("duplicate_field", "model")


OPTIONS = st.none() | st.dictionaries(st.sampled_from(["x", "include_usage"]), st.booleans() | st.none(), max_size=2)


@given(OPTIONS, st.permutations(["model", "messages", "stream", "stream_options", "n"]), st.sampled_from([16, 1000]))
def test_changes_of_a_large_body_are_those_of_a_small_one(
    options: dict[str, Any] | None, names: list[str], slice_bytes: int
) -> None:
    fields = {"model": "m", "messages": [{"content": "a" * 50}], "stream": True, "n": 1, "stream_options": options}
    data = json.dumps({name: fields[name] for name in names if name != "stream_options" or options != {}}).encode()
    with large_bodies(slice_bytes):
        places = read_as(data, CHAT.request).places
    assert places is not None
    assert with_members(data, places, {}, asks_usage=True) == with_flag(data, "stream_options", b"include_usage")
    changed = with_members(data, places, {"model": b'"new"', "max_tokens": b"7"}, asks_usage=True)
    assert json.loads(changed) == json.loads(
        with_output_bound(with_model(with_flag(data, "stream_options", b"include_usage"), "new"), "max_tokens", 7)
    )
