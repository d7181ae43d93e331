"""How many tokens a body holds, probably and at most, whatever it calls its parts."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.protocol.attachments import find_attachments
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
    ],
)
def test_files_count_by_their_kind_with_and_without_data(part: dict[str, Any], most: int) -> None:
    data = body(input=[{"role": "user", "content": [part]}])
    assert tokens_of(data).estimate <= most + 100


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
