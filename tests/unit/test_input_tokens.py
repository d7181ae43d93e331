"""How many tokens a body holds, probably and at most, whatever it calls its parts."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.protocol.attachments import MIN_ATTACHMENT_BYTES, find_attachments
from gateway.protocol.request_work import read_work
from gateway.protocol.token_estimates import (
    BYTES_PER_TOKEN,
    IMAGE_TOKENS,
    InputTokens,
    count_input_tokens,
)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "openai/gpt-5.2", "input": "Hello", **fields}).encode()


def tokens_of(data: bytes) -> InputTokens:
    return count_input_tokens(data, find_attachments(data), data, b'"input_image"')


PNG = "iVBORw0KGgo" + "A" * 100_000
PROSE = "Tell me what you know of the sea. " * 3_000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_text", "text": "data:image/png;base64," + PROSE},
        {"type": "input_text", "text": "data:image/png;base64," + PNG},
        {"type": "input_image", "image_url": "data:image/png;base64," + PROSE},
        {"type": "input_image", "image_url": "data:image/png;base64," + PROSE.replace(" ", "")},
        {"type": "input_image", "image_url": "data:image/png;base64," + PNG + " and then some words"},
        {"type": "input_image", "image_url": "data:image/png;base64," + "Words" * 20_000},
        {"type": "input_image", "title": "data:image/png;base64," + PNG},
        {"type": "input_audio", "input_audio": {"data": PROSE.replace(" ", ""), "format": "wav"}},
        {"type": "output_text", "text": PNG},
    ],
)
def test_text_dressed_as_a_file_is_text(part: dict[str, Any]) -> None:
    data = body(input=[{"role": "user", "content": [part]}])
    assert tokens_of(data).estimate >= len(data) // BYTES_PER_TOKEN
    assert tokens_of(data).bound >= len(data)


@pytest.mark.parametrize(
    ("part", "most"),
    [
        ({"type": "input_image", "image_url": "data:image/png;base64," + PNG}, IMAGE_TOKENS),
        ({"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/" + "A" * 100_000}}, IMAGE_TOKENS),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}, IMAGE_TOKENS),
        ({"type": "image_generation_call", "result": PNG}, IMAGE_TOKENS),
        ({"type": "input_audio", "input_audio": {"data": "UklGRiQIAABXQVZF" + "A" * 100_000}}, 100_000 // 16 + 10),
        ({"type": "input_file", "file_data": "JVBERi0" + "A" * 100_000}, 100_000 // 16 + 10),
        ({"type": "input_image", "image_url": PNG}, IMAGE_TOKENS),
        ({"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": PNG}}, IMAGE_TOKENS),
        ({"type": "function_call_output", "output": [{"type": "input_image", "image_url": PNG}]}, IMAGE_TOKENS),
        ({"type": "resource", "resource": {"mimeType": "application/pdf", "blob": "JVBERi0" + "A" * 9_000}}, 600),
    ],
)
def test_files_count_by_their_kind_with_and_without_data(part: dict[str, Any], most: int) -> None:
    data = body(input=[{"role": "user", "content": [part]}])
    assert tokens_of(data).estimate <= most + 100


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
def test_slashes_may_be_escaped(prefix: str) -> None:
    data = body(input=[{"type": "input_image", "image_url": prefix + "/9j/" + "A/b+" * 50_000}])
    escaped = data.replace(b"/", b"\\/")
    assert json.loads(escaped) == json.loads(data)
    assert tokens_of(escaped).estimate <= IMAGE_TOKENS + 100
    broken = escaped.replace(b"A\\/b", b"A\\nb", 1)
    assert tokens_of(broken).estimate >= len(data) // BYTES_PER_TOKEN


@given(st.text("ab ", max_size=1500), st.integers(0, 4_000), st.booleans())
def test_a_file_is_found_wherever_it_begins(before: str, size: int, is_url: bool) -> None:
    content = "iVBORw0KGgo" + "A" * size
    image = f"data:image/png;base64,{content}" if is_url else content
    data = json.dumps([before, {"image_url": image}, {"image_url": image, "text": before}]).encode()
    found = find_attachments(data)
    assert len(found) == (2 if len(content) >= MIN_ATTACHMENT_BYTES else 0)
    assert all(data[one.start : one.end] == b'"' + image.encode() and one.kind == "image" for one in found)


def test_escapes_in_a_name_change_nothing() -> None:
    plain = body(input=[{"content": [{"type": "input_image", "image_url": "data:image/png;base64," + PNG}]}])
    escaped = plain.replace(b"input_image", b"input\\u005fimage").replace(b"image_url", b"image\\u005furl")
    assert 0 <= tokens_of(escaped).estimate - tokens_of(plain).estimate < 10
    hidden = body(input=[{"content": [{"type": "input_file", "file_id": "f"}]}])
    for data in (hidden, hidden.replace(b"file_id", b"file\\u005fid")):
        assert read_work(json.loads(data), data).unseen


def test_many_short_data_urls_are_text() -> None:
    data = b'{"model":"m","input":["' + b'","'.join([b"data:;base64,"] * 200_000) + b'"]}'
    assert find_attachments(data) == []
    assert tokens_of(data).estimate == -(-len(data) // BYTES_PER_TOKEN)


def test_no_text_has_more_tokens_than_are_held_for_it() -> None:
    """Counted once with the tables of tiktoken 0.14; texts of many scripts, and some made to be dear."""
    counted = json.loads((Path(__file__).parents[1] / "data/tokens/counted.json").read_text(encoding="utf-8"))
    assert len({row["script"] for row in counted}) > 20
    for row in counted:
        data = json.dumps({"model": "m", "input": row["text"]}, ensure_ascii=False).encode()
        assert tokens_of(data).bound >= max(row["tokens"].values()), row["script"]
