"""What is held for what a body shows, hides and switches on, beyond its text."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.routing.router import RouteRule
from tests.support.reservations import RESERVE, held_for

ROW = {"input": "1", "output": "10"}
FEES = ROW | {"per_call": {"web_search": "0.01", "live_search": "0.025", "code_interpreter": "0.03"}}
PER_INPUT, PER_OUTPUT = 1_000, 10_000  # nano-USD a token, of ROW
TEXT_MOST = 2_000 * PER_INPUT
"""More than any of the small bodies below can come to by its text."""


def chat(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, *parts]}],
        "max_tokens": 50,
    } | fields


def responses(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": list(parts) or "Hi"}], "max_output_tokens": 50} | fields


def messages(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts) or "Hi"}], "max_tokens": 50} | fields


def beyond(operation: str, body: dict[str, Any], without: dict[str, Any], row: dict[str, Any]) -> int:
    """What is held for a body beyond what is held without something of it."""
    return held_for(operation, body, row).nano_usd - held_for(operation, without, row).nano_usd


@pytest.mark.parametrize(
    "content", ["x" * 400, [{"type": "text", "text": "x" * 300}, {"type": "text", "text": "é" * 50}]]
)
@pytest.mark.parametrize("n", [1, 3])
def test_a_wrong_prediction_is_held_as_output(content: Any, n: int) -> None:
    predicted = chat(prediction={"type": "content", "content": content}, n=n)
    assert beyond("chat.completions", predicted, chat(n=n), ROW) >= n * 400 * PER_OUTPUT
    unbounded = {name: value for name, value in predicted.items() if name != "max_tokens"}
    held = held_for("chat.completions", unbounded, ROW).reservation
    assert held.output_tokens == n * (4096 + 400)


@pytest.mark.parametrize("prediction", [None, "text", 7, {"content": None}, {"content": [{"text": 7}]}, []])
def test_no_prediction_holds_nothing_more(prediction: Any) -> None:
    assert held_for("chat.completions", chat(prediction=prediction), ROW).reservation.output_tokens == 50


def test_a_budget_of_thinking_lies_beside_the_bound() -> None:
    assert held_for("chat.completions", chat(thinking_budget=2000), ROW).reservation.output_tokens == 2050
    assert held_for("chat.completions", chat(thinking_budget="x"), ROW).reservation.output_tokens == 50


@pytest.mark.parametrize(
    ("documents", "pieces"), [(["a"], 1), (["a", "b", "c"], 3), (["x" * 2_500, {"text": "y" * 900}], 4), ([], 1)]
)
def test_a_rerank_reads_its_query_with_each_piece(documents: list[Any], pieces: int) -> None:
    shorter, longer = ({"query": "q" * size, "documents": documents} for size in (1_000, 4_000))
    assert beyond("rerank", longer, shorter, ROW) == 3_000 * pieces * PER_INPUT


SWITCHES = [
    ({"search_parameters": {}}, 20 * 25_000_000),
    ({"search_parameters": {"mode": "auto", "max_search_results": 7}}, 7 * 25_000_000),
    ({"search_parameters": {}, "enable_search": True}, 30 * 25_000_000),
    ({"search_parameters": {"mode": "off"}}, 0),
    ({"search_parameters": None}, 0),
    ({"max_tool_calls": 2, "search_parameters": {"max_search_results": 5}}, 7 * 25_000_000),
    ({"web_search_options": {}}, 10 * 10_000_000),
    ({"enable_search": True}, 10 * 10_000_000),
    ({"enable_search": False}, 0),
    ({"connectors": [{"id": "web-search"}]}, 10 * 10_000_000),
    ({"compound_custom": {"tools": {"enabled_tools": ["code_interpreter"]}}}, 10 * 30_000_000),
    ({"tools": [{"google_search": {}}]}, 10 * 10_000_000),
    ({"tools": [{"googleSearch": {}}, {"codeExecution": {}}]}, 10 * 30_000_000),
    ({"tools": [{"name": "google", "input_schema": {"google_search": {}}}]}, 0),
    ({"plugins": [{"id": "web"}]}, 10 * 10_000_000),
]


@pytest.mark.parametrize(("fields", "fees"), SWITCHES)
def test_searches_that_a_field_switches_on_are_held(fields: dict[str, Any], fees: int) -> None:
    more = beyond("chat.completions", chat(**fields), chat(), FEES)
    read = RESERVE * PER_INPUT if fees else 0  # what is found is read
    assert fees + read <= more <= fees + read + TEXT_MOST


def test_servers_of_tools_that_a_message_names_are_read() -> None:
    more = messages(mcp_servers=[{"type": "url", "url": "https://example.org"}])
    assert beyond("messages", more, messages(), ROW) >= RESERVE * PER_INPUT


HIDDEN = [
    ("chat.completions", chat({"type": "video_url", "video_url": {"url": "https://example.org/v.mp4"}})),
    ("chat.completions", chat({"type": "video", "video": ["https://example.org/1.jpg"]})),
    ("chat.completions", chat({"type": "audio_url", "audio_url": {"url": "https://example.org/a.mp3"}})),
    ("chat.completions", chat({"type": "input_audio", "input_audio": {"data": "https://example.org/a.mp3"}})),
    ("chat.completions", chat({"type": "document_url", "document_url": "https://example.org/a.pdf"})),
    ("chat.completions", chat({"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}})),
    ("responses", responses({"type": "input_file", "file_data": "data:application/pdf;base64,JVBERi0="})),
    ("responses", responses({"type": "input_file", "file_url": "https://example.org/a.pdf"})),
    ("responses", responses({"type": "input_image", "file_id": "file_1"})),
    ("messages", messages({"type": "document", "source": {"type": "base64", "data": "JVBERi0="}})),
    ("messages", messages({"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}})),
    ("messages", messages({"type": "image", "source": {"type": "file", "file_id": "file_1"}})),
    ("audio.transcriptions", {"url": "https://example.org/a.mp3"}),
]


@pytest.mark.parametrize(("operation", "body"), HIDDEN)
def test_what_nobody_can_measure_holds_the_reserve_or_the_context(operation: str, body: dict[str, Any]) -> None:
    known = ROW | {"context_tokens": 30_000, "max_output_tokens": 100}
    for row, rule, tokens in (
        (ROW | {"max_output_tokens": 100}, RouteRule("*", ("one",)), RESERVE),
        (known | {"context_tokens": 10_000_000}, RouteRule("*", ("one",), reserve_input_tokens=20_000), 20_000),
        (known, RouteRule("*", ("one",)), 30_000),
    ):
        held = held_for(operation, body, row, rule=rule).nano_usd
        assert tokens * PER_INPUT <= held <= tokens * PER_INPUT + 100 * PER_OUTPUT + TEXT_MOST


PNG = "data:image/png;base64,iVBORw0KGgo" + "A" * 9000


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("responses", responses({"type": "input_image", "image_url": "https://example.org/1.png"})),
        ("responses", responses({"type": "input_image", "image_url": PNG})),
        ("chat.completions", chat({"type": "image_url", "image_url": {"url": PNG}})),
        ("messages", messages({"type": "image", "source": {"type": "url", "url": "https://example.org/1.png"}})),
        ("images.edits", {"prompt": "x", "image": "https://example.org/1.png"}),
        ("images.edits", {"prompt": "x", "images": [{"image_url": "https://example.org/1.png"}]}),
    ],
)
@pytest.mark.parametrize(("stated", "tokens"), [({}, 48_169), ({"max_image_tokens": 5_000}, 5_000)])
def test_an_image_holds_what_the_thirstiest_model_makes_of_it_or_what_the_row_says(
    operation: str, body: dict[str, Any], stated: dict[str, Any], tokens: int
) -> None:
    row = ROW | {"max_output_tokens": 100} | stated
    found = held_for(operation, body, row)
    held = found.nano_usd - found.reservation.output_tokens * PER_OUTPUT
    assert tokens * PER_INPUT <= held <= tokens * PER_INPUT * 1.01 + TEXT_MOST


def test_images_of_a_file_and_images_shown_add_up() -> None:
    shown, stored = {"type": "input_image", "image_url": "https://x.org/1.png"}, {"type": "input_image", "file_id": "f"}
    held = held_for("responses", responses(shown, stored), ROW | {"max_image_tokens": 5_000}).nano_usd
    assert held >= (RESERVE + 5_000) * PER_INPUT
    assert held <= (RESERVE + 5_000) * PER_INPUT + 50 * PER_OUTPUT + TEXT_MOST


BY_SECOND = ROW | {"per_unit": {"second": "0.001"}, "max_output_tokens": 100}
PER_SECOND = 1_000_000


@pytest.mark.parametrize(
    ("operation", "body", "seconds"),
    [
        ("audio.transcriptions", {"url": "https://example.org/a.mp3"}, RESERVE // 20),
        ("audio.translations", {"file_id": "file_1"}, RESERVE // 20),
        ("chat.completions", chat({"type": "input_audio", "input_audio": {"data": "A" * 100_000}}), 100),
        ("chat.completions", chat({"type": "input_audio", "input_audio": {"data": "http://x.org/a"}}), RESERVE // 20),
        ("chat.completions", chat(), 0),
    ],
)
def test_sound_of_unknown_length_is_held_by_the_second(operation: str, body: dict[str, Any], seconds: int) -> None:
    tokens = held_for(operation, body, replace_units(BY_SECOND)).nano_usd
    held = held_for(operation, body, BY_SECOND).nano_usd - tokens
    assert seconds * PER_SECOND <= held <= (seconds * 1.02 + 2) * PER_SECOND


def replace_units(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "per_unit"}


def test_sound_whose_length_is_known_holds_no_reserve() -> None:
    wav = b"RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00" + (8000).to_bytes(4, "little")
    wav += (8000).to_bytes(4, "little") + b"\x01\x00\x08\x00data" + (16_000).to_bytes(4, "little") + b"\x80" * 16_000
    head = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\na/b\r\n--x\r\n'
    head += b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    held = held_for(
        "audio.transcriptions", head + wav + b"\r\n--x--\r\n", BY_SECOND, form_type="multipart/form-data; boundary=x"
    )
    assert held.request.bounds.units == {"second": 2}
    assert held.nano_usd <= 2 * PER_SECOND + 100 * PER_OUTPUT + TEXT_MOST


def test_a_form_that_names_its_sound_by_a_url_holds_the_reserve() -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\na/b\r\n--x\r\n'
    body += b'Content-Disposition: form-data; name="url"\r\n\r\nhttps://example.org/a.mp3\r\n--x--\r\n'
    held = held_for("audio.transcriptions", body, BY_SECOND, form_type="multipart/form-data; boundary=x")
    assert held.nano_usd >= RESERVE // 20 * PER_SECOND


def test_a_limit_of_calls_of_the_route_bounds_the_fees() -> None:
    rule = replace(RouteRule("*", ("one",)), max_tool_calls=2, reserve_input_tokens=0)
    held = held_for("chat.completions", chat(enable_search=True), FEES, rule=rule).nano_usd
    assert 20_000_000 <= held <= 20_000_000 + 50 * PER_OUTPUT + TEXT_MOST


def test_a_moderation_whose_tokens_a_provider_counts_is_held() -> None:
    held = held_for("moderations", {"input": "x" * 500}, ROW).nano_usd
    assert 500 * PER_INPUT <= held <= 500 * PER_INPUT + TEXT_MOST
    assert held_for("moderations", {"input": "x" * 500}, {"input": "0", "output": "0"}).nano_usd == 0
