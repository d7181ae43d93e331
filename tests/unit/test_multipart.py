"""Forms with files: every part is found where it stands, and what two parsers could read in two ways is refused."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.protocol.body_changes import with_model
from gateway.protocol.dialects.audio import TRANSCRIPTION
from gateway.protocol.dialects.images import IMAGES
from gateway.protocol.form_body import read_form_request
from gateway.protocol.multipart import MAX_PARTS, MAX_TEXT_BYTES, boundary_of, is_form, read_form, with_text
from tests.support.forms import BOUNDARY, CONTENT_TYPE, closed, file_part, text_part, wav

NAMES = frozenset({"model", "n", "stream"})
CONTENT = st.binary(max_size=60) | st.sampled_from(
    [b"\r\n", b"\r\n--", b"--b0undar", b"\r\n--b0undar\r\n", b"\n--b0undary"]
)


def read(*parts: bytes) -> dict[str, str]:
    return dict(read_form(closed(*parts), BOUNDARY.encode(), NAMES).texts)


def refusal(body: bytes, content_type: str = CONTENT_TYPE) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        read_form_request(body, content_type.encode(), IMAGES.request)
    return caught.value


@given(st.lists(CONTENT, max_size=5), st.randoms())
def test_every_part_is_found_in_any_order(contents: list[bytes], random: object) -> None:
    parts = [file_part(f"file{number}", "a.bin", content) for number, content in enumerate(contents)]
    parts.append(text_part("model", b"m/1"))
    random.shuffle(parts)  # type: ignore[attr-defined]  # hypothesis gives no type for it
    body = closed(*parts)
    form = read_form(body, BOUNDARY.encode(), NAMES)
    assert form.texts == {"model": "m/1"}
    found = {part.name: body[part.start : part.end] for part in form.files}
    assert found == {f"file{number}": content for number, content in enumerate(contents)}


@given(st.lists(CONTENT, max_size=4), st.text(min_size=1, max_size=20))
def test_a_model_is_renamed_and_no_other_byte_changes(contents: list[bytes], model: str) -> None:
    before = [file_part(f"file{number}", "a.bin", content) for number, content in enumerate(contents)]
    old, bare = closed(*before, text_part("model", b"old"), *before[:0]), closed(*before)
    renamed = with_text(old, read_form(old, BOUNDARY.encode(), NAMES), "model", model)
    assert renamed == closed(*before, text_part("model", model.encode()))
    without = read_form(bare, BOUNDARY.encode(), NAMES)
    assert with_text(bare, without, "model", model) == closed(text_part("model", model.encode()), *before)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_or_read_and_never_fail(data: bytes) -> None:
    for body in (data, closed(data), closed(text_part("model", b"m"), data)):
        with contextlib.suppress(GatewayError):
            read_form(body, BOUNDARY.encode(), NAMES)


HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'.encode()
END = f"--{BOUNDARY}--\r\n".encode()
GAMES = {
    "a preamble": b"hello\r\n" + HEAD + END,
    "an epilogue": HEAD + END + b"--other",
    "no last boundary": HEAD,
    "bare line feeds": HEAD.replace(b"\r\n", b"\n") + END,
    "something behind the boundary": HEAD.replace(b"b0undary\r\n", b"b0undaryX\r\n") + END,
    "a space behind the boundary": HEAD.replace(b"b0undary\r\n", b"b0undary \r\n") + END,
    "a folded header": HEAD.replace(b"form-data;", b"form-data;\r\n ") + END,
    "two dispositions": HEAD.replace(b"\r\n\r\n", b'\r\nContent-Disposition: form-data; name="n"\r\n\r\n') + END,
    "two names": HEAD.replace(b'name="model"', b'name="model"; name="n"') + END,
    "no name": HEAD.replace(b'; name="model"', b"") + END,
    "not form data": HEAD.replace(b"form-data", b"attachment") + END,
    "an encoded part": HEAD.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + END,
    "no head": f"--{BOUNDARY}\r\nmodel\r\n".encode() + END,
    "nothing": b"",
    "a model twice": HEAD + HEAD + END,
    "a model in other case": HEAD + HEAD.replace(b'"model"', b'"Model"') + END,
    "a model that is a file": HEAD.replace(b'"model"', b'"model"; filename="m.txt"') + END,
    "a model that is no UTF-8": HEAD.replace(b"\r\n\r\nm", b"\r\n\r\n\xff") + END,
    "a model that is too long": HEAD.replace(b"\r\n\r\nm", b"\r\n\r\n" + b"m" * (MAX_TEXT_BYTES + 1)) + END,
    "a number that is none": text_part("model", b"m") + text_part("n", b"-1") + END,
    "a flag that is none": text_part("model", b"m") + text_part("stream", b"yes") + END,
    "too many parts": text_part("x", b"") * (MAX_PARTS + 1) + END,
}


@pytest.mark.parametrize("body", GAMES.values(), ids=GAMES.keys())
def test_what_can_be_read_in_two_ways_is_refused(body: bytes) -> None:
    assert refusal(body).code in ("invalid_field", "duplicate_field")


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=b0undary; boundary=b0undary",
        "multipart/form-data; boundary=b0undary; BOUNDARY=other",
        f"multipart/form-data; boundary={'b' * 71}",
        'multipart/form-data; boundary="b0undary',
        "multipart/form-data; boundary=b0 undary",
    ],
)
def test_a_boundary_that_is_none_or_two_is_refused(content_type: str) -> None:
    assert refusal(HEAD + END, content_type).code == "invalid_field"


@pytest.mark.parametrize("value", ["boundary=b0undary", 'boundary="b0undary"', "charset=utf-8; Boundary=b0undary"])
def test_a_boundary_is_read_as_programs_write_it(value: str) -> None:
    content_type = f"Multipart/Form-Data; {value}".encode()
    assert is_form(content_type)
    assert boundary_of(content_type) == b"b0undary"


def test_the_fields_that_the_gateway_reads() -> None:
    body = closed(
        file_part("image[]", "a.png", b"\x89PNG"),
        file_part("image[]", "b.png", b"\x89PNG"),
        file_part("mask", "m.png", b"\x89PNG"),
        text_part("prompt", b"a hat" * 8),
        text_part("n", b"2"),
        text_part("stream", b"true"),
        text_part("partial_images", b"3"),
        text_part("size", b"auto"),
        text_part("quality", b"high"),
        text_part("model", b"gpt-image-1"),
    )
    request = read_form_request(body, CONTENT_TYPE.encode(), IMAGES.request)
    assert (request.model, request.stream, request.names_model) == ("gpt-image-1", True, True)
    assert (request.bounds.runs, request.bounds.more_output_tokens) == (2, 300)
    assert (request.facts.size, request.facts.quality) == ("", "high")
    assert request.input_tokens_estimate >= 3 * 1_500 + 10
    assert re.search(rb"\r\n\r\nother\r\n", with_model(request.body, "other", request.form))


def test_a_form_without_a_model_gets_the_one_that_the_api_documents() -> None:
    request = read_form_request(closed(text_part("prompt", b"x")), CONTENT_TYPE.encode(), IMAGES.request)
    assert (request.model, request.names_model) == ("dall-e-2", False)
    assert with_model(request.body, request.model, request.form).startswith(text_part("model", b"dall-e-2"))
    with pytest.raises(GatewayError) as caught:
        read_form_request(closed(text_part("language", b"en")), CONTENT_TYPE.encode(), TRANSCRIPTION.request)
    assert (caught.value.code, caught.value.param) == ("missing_field", "model")


def test_a_file_of_sound_counts_by_its_seconds() -> None:
    body = closed(file_part("file", "speech.wav", wav(90)), text_part("model", b"whisper-1"))
    request = read_form_request(body, CONTENT_TYPE.encode(), TRANSCRIPTION.request)
    assert request.bounds.units == {"second": 90}
    assert request.facts.seconds == 90
    assert request.input_tokens_estimate < 3_000 < len(body) // 4


@pytest.mark.parametrize(
    ("parts", "user"),
    [
        ([], ""),
        ([text_part("user", b"bob")], "bob"),
        ([text_part("user", b"bob"), text_part("safety_identifier", b"sid")], "sid"),
        ([text_part("user", b"\xff\n\xe9")], "\ufffd \ufffd"),
        ([file_part("user", "bob.txt", b"bob")], ""),
    ],
)
def test_a_form_names_its_end_user_in_a_part(parts: list[bytes], user: str) -> None:
    body = closed(text_part("model", b"m"), text_part("prompt", b"x"), *parts)
    assert read_form_request(body, CONTENT_TYPE.encode(), IMAGES.request).labels.end_user == user
