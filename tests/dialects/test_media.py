"""Images and sound on real sockets: forms pass unchanged, sound passes as it comes, and all of it is paid for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.dialects.conftest import Stages
from tests.support.forms import CONTENT_TYPE, closed, file_part, text_part, wav
from tests.support.scenario import JSON, MODEL, RawClient, Scenario, chunk, end_of_body, more, stream
from tests.support.scripted_upstream import Step, answer, request, reset, send, wait_for
from tests.support.waiting import wait_until

PICTURES = {"*": {"input": "0", "output": "0", "per_image": {"hd/1024x1792": "0.12", "standard/1024x1024": "0.04"}}}
SOUND = {"*": {"input": "0", "output": "0", "per_unit": {"second": "0.0001", "million_characters": "15"}}}


def whole(**fields: Any) -> Step:
    return answer(json.dumps(fields).encode(), headers=JSON)


async def ask(scenario: Scenario, path: str, *, dry_run: bool = False, **fields: Any) -> RawClient:
    headers = "x-gateway-dry-run: true\r\n" if dry_run else ""
    client = await scenario.ask(json.dumps({"model": MODEL, **fields}).encode(), path=path, headers=headers)
    await client.read_all()
    return client


async def send_form(scenario: Scenario, path: str, *parts: bytes) -> RawClient:
    client = await scenario.ask(closed(*parts), path=path, content_type=CONTENT_TYPE)
    await client.read_all()
    return client


# Images


@pytest.mark.parametrize(
    ("asked", "told", "amount"),
    [
        ({"size": "1024x1792", "quality": "hd"}, {}, 120_000_000),
        ({"size": "auto", "quality": "auto"}, {"size": "1024x1024", "quality": "standard"}, 40_000_000),
        ({"n": 2, "size": "1024x1024", "quality": "standard"}, {}, 80_000_000),
    ],
)
async def test_pictures_are_charged_one_by_one(
    stages: Stages, asked: dict[str, Any], told: dict[str, Any], amount: int
) -> None:
    data = [{"url": "https://images.example/1.png"}] * asked.get("n", 1)
    async with stages([request(), whole(created=1, data=data, **told)], prices=PICTURES) as scenario:
        client = await ask(scenario, "/v1/images/generations", prompt="a hat", **asked)
        assert len(json.loads(client.body)["data"]) == len(data)
        (entry,) = await scenario.settled()
        assert (entry["by"], int(entry["amount"])) == ("usage", -amount)


async def test_pictures_without_usage_at_a_price_by_tokens_are_no_gift(stages: Stages) -> None:
    async with stages([request(), whole(created=1, data=[{"b64_json": "aGk="}])]) as scenario:
        await ask(scenario, "/v1/images/generations", prompt="a hat")
        (entry,) = await scenario.settled()
        assert entry["by"] == "estimate"
        assert int(entry["amount"]) < 0


async def test_the_hold_has_the_most_expensive_picture_and_the_partial_ones(stages: Stages) -> None:
    async with stages([], prices=PICTURES) as scenario:
        client = await ask(scenario, "/v1/images/generations", prompt="a hat", n=3, dry_run=True)
        assert json.loads(client.body)["hold"]["amount_usd"] == "0.36"
    async with stages([], limits={}, route={"default_max_output_tokens": 1_000}) as scenario:
        client = await ask(scenario, "/v1/images/generations", prompt="a hat", n=2, partial_images=3, dry_run=True)
        assert json.loads(client.body)["hold"]["output_tokens"] == 2_300


async def test_a_form_reaches_the_provider_byte_for_byte_but_for_its_model(stages: Stages) -> None:
    picture = bytes(range(256)) * 8 + b"\r\n--b0undar"
    parts = [
        file_part("image", "a.png", picture, "image/png"),
        text_part("prompt", b"a hat"),
        text_part("model", b"a/m"),
    ]
    route = {"strip_prefix": "a/"}
    async with stages([request(), whole(data=[{"b64_json": "aGk="}])], prices=PICTURES, route=route) as scenario:
        client = await send_form(scenario, "/v1/images/edits", *parts)
        assert client.status == 200
        head, _, body = scenario.upstream.requests[0].partition(b"\r\n\r\n")
        assert body == closed(*parts[:2], text_part("model", b"m"))
        assert f"content-type: {CONTENT_TYPE}".encode() in head
        assert head.startswith(b"POST /v1/images/edits ")


async def test_a_variation_without_a_model_goes_to_the_one_that_the_api_documents(stages: Stages) -> None:
    async with stages([request(), whole(data=[{"url": "x"}])], prices=PICTURES) as scenario:
        await send_form(scenario, "/v1/images/variations", file_part("image", "a.png", b"\x89PNG"))
        assert text_part("model", b"dall-e-2") in scenario.upstream.requests[0]


async def test_a_form_is_not_for_calls_that_have_none(stages: Stages) -> None:
    async with stages([]) as scenario:
        client = await send_form(scenario, "/v1/chat/completions", text_part("model", b"m"))
        assert (client.status, json.loads(client.body)["error"]["code"]) == (415, "unsupported_media_type")


# Sound


AUDIO = b"HTTP/1.1 200 OK\r\ncontent-type: audio/mpeg\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_sound_passes_as_it_comes_and_costs_its_characters(stages: Stages) -> None:
    go_on, sound = asyncio.Event(), [b"\xff\xfb\x90" * 100, bytes(range(256))]
    script = [request(), send(AUDIO + chunk(sound[0])), wait_for(go_on), more(sound[1]), end_of_body()]
    async with stages(script, prices=SOUND) as scenario:
        said = "Guten Abend, liebe Gäste."
        client = await scenario.ask(json.dumps({"model": MODEL, "input": said}).encode(), path="/v1/audio/speech")
        await client.read_until(sound[0])
        go_on.set()
        await client.read_all()
        assert client.body == b"".join(sound)
        assert client.header("content-type") == "audio/mpeg"
        (entry,) = await scenario.settled()
        assert int(entry["amount"]) == -len(said) * 15_000


async def test_sound_of_a_known_length_keeps_it(stages: Stages) -> None:
    sound = answer(b"\x00" * 5_000, headers=b"content-type: audio/wav\r\n")
    async with stages([request(), sound], prices=SOUND) as scenario:
        client = await ask(scenario, "/v1/audio/speech", input="x")
        assert (client.header("content-length"), client.body) == ("5000", b"\x00" * 5_000)


async def test_sound_that_breaks_off_does_not_look_whole(stages: Stages) -> None:
    async with stages([request(), send(AUDIO + chunk(b"\xff\xfb")), reset()], prices=SOUND) as scenario:
        client = await ask(scenario, "/v1/audio/speech", input="hello")
        assert not client.received.endswith(b"0\r\n\r\n")
        (entry,) = await scenario.settled()
        await wait_until(lambda: bool(scenario.log_lines()), what="the request is logged")
        assert (scenario.log_lines()[0]["outcome"], entry["by"]) == ("upstream_cut", "estimate")


async def test_speech_priced_by_tokens_is_estimated(stages: Stages) -> None:
    sound = answer(b"\x00" * 500, headers=b"content-type: audio/wav\r\n")
    async with stages([request(), sound]) as scenario:
        await ask(scenario, "/v1/audio/speech", input="word " * 30)
        (entry,) = await scenario.settled()
        assert entry["by"] == "estimate"
        assert -int(entry["amount"]) > 150 * 10_000


@pytest.mark.parametrize("kind", ["text/plain", "text/vtt", "application/x-subrip"])
async def test_a_transcription_in_plain_text_costs_the_length_of_its_file(stages: Stages, kind: str) -> None:
    text = answer(b"Good evening.\n", headers=f"content-type: {kind}; charset=utf-8\r\n".encode())
    async with stages([request(), text], prices=SOUND) as scenario:
        parts = [file_part("file", "a.wav", wav(30)), text_part("response_format", b"text"), text_part("model", b"m")]
        client = await send_form(scenario, "/v1/audio/transcriptions", *parts)
        assert client.body == b"Good evening.\n"
        (entry,) = await scenario.settled()
        assert int(entry["amount"]) == -30 * 100_000


@pytest.mark.parametrize("duration", [27.4, "27.4"], ids=["number", "text"])
async def test_a_verbose_transcription_costs_its_duration(stages: Stages, duration: object) -> None:
    async with stages([request(), whole(text="Hi", duration=duration)], prices=SOUND) as scenario:
        parts = [file_part("file", "a.wav", wav(30)), text_part("model", b"m")]
        await send_form(scenario, "/v1/audio/transcriptions", *parts)
        (entry,) = await scenario.settled()
        assert (entry["by"], int(entry["amount"])) == ("usage", -2_740_000)


async def test_a_transcriptions_stream_that_breaks_off_ends_with_an_error_event(stages: Stages) -> None:
    said = b'data: {"type":"transcript.text.delta","delta":"Good "}\n\n'
    async with stages([request(), stream(said), end_of_body()], prices=SOUND) as scenario:
        parts = [file_part("file", "a.wav", wav(1)), text_part("stream", b"true"), text_part("model", b"m")]
        client = await send_form(scenario, "/v1/audio/translations", *parts)
        assert client.body.startswith(said + b"event: error\ndata: ")
        assert b"[DONE]" not in client.body
