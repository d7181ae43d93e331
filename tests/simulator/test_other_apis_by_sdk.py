"""The official SDKs, openai's and anthropic's, talk to the simulator's calls beside /v1/responses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, Literal, cast

import anthropic
import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

from tests.support.forms import wav

ASKED: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA, "strict": True}}]
CLAUDE_TOOLS: Any = [{"name": "get_weather", "input_schema": SCHEMA}]
PNG = ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")
SOUND = ("a.wav", wav(2), "audio/wav")


class Ticket(BaseModel):
    title: str
    priority: Literal["low", "high"]
    steps: list[str]


@pytest.fixture
def client(simulator_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{simulator_url}/v1", api_key="sk-anything", max_retries=0, timeout=10) as sdk:
        yield sdk


@pytest.fixture
async def async_client(simulator_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{simulator_url}/v1", api_key="sk-anything", max_retries=0, timeout=10
    ) as sdk:
        yield sdk


@pytest.fixture
def claude(simulator_url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=simulator_url, api_key="sk-anything", max_retries=0, timeout=10) as sdk:
        yield sdk


@pytest.fixture
async def async_claude(simulator_url: str) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=simulator_url, api_key="sk-anything", max_retries=0, timeout=10
    ) as sdk:
        yield sdk


# Chat completions, completions


def test_a_chat_completion_with_choices_and_usage(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="m", messages=ASKED, n=3)
    assert [choice.finish_reason for choice in answer.choices] == ["stop"] * 3
    assert "Paris" in (answer.choices[2].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


async def test_a_chat_stream_has_usage_in_a_chunk_of_its_own_where_it_is_asked_for(
    async_client: openai.AsyncOpenAI,
) -> None:
    whole = await async_client.chat.completions.create(model="m", messages=ASKED)
    options: Any = {"include_usage": True}
    chunks = [
        chunk
        async for chunk in await async_client.chat.completions.create(
            model="m", messages=ASKED, stream=True, stream_options=options
        )
    ]
    said = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_chat_stream_without_that_has_a_choice_in_every_chunk(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="m", messages=ASKED, stream=True))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def _calls(completion: ChatCompletion) -> list[ChatCompletionMessageFunctionToolCall]:
    calls = completion.choices[0].message.tool_calls or []
    return [call for call in calls if isinstance(call, ChatCompletionMessageFunctionToolCall)]


def test_a_chat_tool_call_and_the_answer_that_uses_its_output(client: openai.OpenAI) -> None:
    asked = client.chat.completions.create(model="m", messages=ASKED, tools=TOOLS)
    (call,) = _calls(asked)
    assert (asked.choices[0].finish_reason, json.loads(call.function.arguments)["city"]) == ("tool_calls", "Paris")
    turn: Any = [
        *ASKED,
        asked.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "21 degrees and sunny"},
    ]
    done = client.chat.completions.create(model="m", messages=turn, tools=TOOLS)
    assert "21 degrees and sunny" in (done.choices[0].message.content or "")


def test_the_stream_helper_gathers_a_tool_call(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="m", messages=ASKED, tools=TOOLS) as events:
        final = events.get_final_completion()
    (call,) = _calls(final)
    assert json.loads(call.function.arguments)["city"] == "Paris"


def test_a_parsed_chat_completion_is_an_instance_of_its_class(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(model="m", messages=ASKED, response_format=Ticket).choices[0].message.parsed
    assert isinstance(parsed, Ticket)


async def test_completions(async_client: openai.AsyncOpenAI) -> None:
    whole = await async_client.completions.create(model="m", prompt=["Once", "Twice"], n=2)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    chunks = [chunk async for chunk in await async_client.completions.create(model="m", prompt="Once", stream=True)]
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


# Messages


def test_a_message(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(model="m", max_tokens=500, messages=ASKED)
    assert (message.role, message.stop_reason) == ("assistant", "end_turn")
    assert message.usage.output_tokens > 0
    counted = claude.messages.count_tokens(model="m", messages=ASKED)
    assert counted.input_tokens == message.usage.input_tokens


def test_a_message_stops_at_its_bound(claude: anthropic.Anthropic) -> None:
    assert claude.messages.create(model="sim/tokens-100", max_tokens=5, messages=ASKED).stop_reason == "max_tokens"


async def test_a_message_stream_gathers_text_and_usage(async_claude: anthropic.AsyncAnthropic) -> None:
    whole = await async_claude.messages.create(model="m", max_tokens=500, messages=ASKED)
    async with async_claude.messages.stream(model="m", max_tokens=500, messages=ASKED) as events:
        said = "".join([text async for text in events.text_stream])
        final = await events.get_final_message()
    assert said == "".join(block.text for block in whole.content if block.type == "text")
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_message_streams_its_tool_call_and_uses_its_output(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="m", max_tokens=500, messages=ASKED, tools=CLAUDE_TOOLS) as events:
        asked = events.get_final_message()
    (call,) = [block for block in asked.content if block.type == "tool_use"]
    assert (asked.stop_reason, call.input) == ("tool_use", {"city": "Paris", "unit": "celsius"})
    turn: Any = [
        *ASKED,
        {"role": "assistant", "content": [block.model_dump() for block in asked.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "21 and sunny"}]},
    ]
    done = claude.messages.create(model="m", max_tokens=500, messages=turn, tools=CLAUDE_TOOLS)
    assert any("21 and sunny" in block.text for block in done.content if block.type == "text")


def test_a_message_thinks_first(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(model="sim/reasoner", max_tokens=500, messages=ASKED)
    assert [block.type for block in message.content] == ["thinking", "text"]


def test_a_parsed_message_is_an_instance_of_its_class(claude: anthropic.Anthropic) -> None:
    message = claude.messages.parse(model="m", max_tokens=500, messages=ASKED, output_format=Ticket)
    assert isinstance(message.parsed_output, Ticket)


# Embeddings, moderations, rerank


def test_embeddings_of_texts_and_of_token_ids(client: openai.OpenAI) -> None:
    texts = client.embeddings.create(model="m", input=["a", "b", "a"], dimensions=8)
    assert [len(one.embedding) for one in texts.data] == [8, 8, 8]
    assert texts.data[0].embedding == texts.data[2].embedding
    assert client.embeddings.create(model="m", input=[[1, 2], [3]]).usage.prompt_tokens == 3


def test_moderations(client: openai.OpenAI) -> None:
    verdicts = client.moderations.create(input=["A windmill.", "A bomb."])
    assert [result.flagged for result in verdicts.results] == [False, True]


# Images


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the SDK calls it so; it is served
def test_images_are_made_and_edited(client: openai.OpenAI) -> None:
    made = client.images.generate(model="gpt-image-1", prompt="A windmill", n=2)
    assert [bool(image.b64_json) for image in made.data or ()] == [True, True]
    assert made.usage is not None
    edited = client.images.edit(model="gpt-image-1", prompt="A windmill", image=PNG)
    assert edited.usage is not None
    assert edited.usage.input_tokens_details.image_tokens > 0
    varied = cast("Any", client).images.create_variation(model="dall-e-2", image=PNG)
    assert (varied.data or [])[0].url


async def test_an_image_stream_shows_its_partial_pictures(async_client: openai.AsyncOpenAI) -> None:
    stream = await async_client.images.generate(model="gpt-image-1", prompt="A windmill", stream=True, partial_images=2)
    kinds = [event.type async for event in stream]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]


# Audio


def test_speech_is_sound_that_is_as_long_as_its_text(client: openai.OpenAI) -> None:
    short, long = [client.audio.speech.create(model="m", voice="alloy", input=text).content for text in ("a", "a" * 90)]
    assert short.startswith(b"RIFF")
    assert len(long) > len(short)


async def test_speech_streams(async_client: openai.AsyncOpenAI) -> None:
    async with async_client.audio.speech.with_streaming_response.create(
        model="m", voice="alloy", input="Hello"
    ) as answer:
        assert (await answer.read()).startswith(b"RIFF")


@pytest.mark.parametrize(("form", "start"), [("text", "This is"), ("srt", "1\n00:"), ("vtt", "WEBVTT")])
def test_a_transcription_as_plain_text(client: openai.OpenAI, form: Any, start: str) -> None:
    answer: Any = client.audio.transcriptions.create(model="m", file=SOUND, response_format=form)
    assert answer.startswith(start)


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the SDK calls it so; it is served
def test_a_transcription_and_a_translation(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="m", file=SOUND)
    assert answer.usage is not None
    assert answer.usage.type == "tokens"
    whole = client.audio.transcriptions.create(model="whisper-1", file=SOUND, response_format="verbose_json")
    assert whole.duration > 0
    translated = cast("Any", client).audio.translations.create(model="whisper-1", file=SOUND)
    assert translated.text


def test_a_transcription_streams(client: openai.OpenAI) -> None:
    kinds = [event.type for event in client.audio.transcriptions.create(model="m", file=SOUND, stream=True)]
    assert set(kinds[:-1]) == {"transcript.text.delta"}
    assert kinds[-1] == "transcript.text.done"


# Behaviours by model name


CALLS: dict[str, Any] = {
    "chat": lambda sdk, model: sdk.chat.completions.create(model=model, messages=ASKED),
    "completions": lambda sdk, model: sdk.completions.create(model=model, prompt="Once"),
    "embeddings": lambda sdk, model: sdk.embeddings.create(model=model, input="a"),
    "moderations": lambda sdk, model: sdk.moderations.create(model=model, input="a"),
    "images": lambda sdk, model: sdk.images.generate(model=model, prompt="a"),
    "speech": lambda sdk, model: sdk.audio.speech.create(model=model, voice="alloy", input="a"),
    "transcriptions": lambda sdk, model: sdk.audio.transcriptions.create(model=model, file=SOUND),
}
STREAMS: dict[str, Any] = {
    "chat": lambda sdk, model: sdk.chat.completions.create(model=model, messages=ASKED, stream=True),
    "completions": lambda sdk, model: sdk.completions.create(model=model, prompt="Once", stream=True),
    "images": lambda sdk, model: sdk.images.generate(model=model, prompt="a", stream=True, partial_images=3),
    "transcriptions": lambda sdk, model: sdk.audio.transcriptions.create(model=model, file=SOUND, stream=True),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
every_stream = pytest.mark.parametrize("call", STREAMS.values(), ids=STREAMS)


@every_call
@pytest.mark.parametrize(("status", "error"), [(429, openai.RateLimitError), (503, openai.InternalServerError)])
def test_every_call_fails_as_its_model_says(
    client: openai.OpenAI, call: Any, status: int, error: type[openai.APIStatusError]
) -> None:
    with pytest.raises(error) as caught:
        call(client, f"sim/error-{status}")
    assert caught.value.code == "simulated_error"


@every_call
def test_every_call_is_cut_as_its_model_says(client: openai.OpenAI, call: Any) -> None:
    with pytest.raises(openai.APIConnectionError):
        call(client, "sim/cut-1")


@every_call
@pytest.mark.parametrize("model", ["sim/stall-1", "sim/stall-head"])
def test_every_call_stalls_as_its_model_says(client: openai.OpenAI, call: Any, model: str) -> None:
    with pytest.raises(openai.APITimeoutError):
        call(client.with_options(timeout=0.3), model)


@every_call
def test_no_usage_is_none(client: openai.OpenAI, call: Any) -> None:
    answer = call(client, "sim/no-usage")
    assert getattr(answer, "usage", None) is None


@every_stream
def test_every_stream_is_cut_and_stalls_as_its_model_says(client: openai.OpenAI, call: Any) -> None:
    with pytest.raises((httpx.RemoteProtocolError, openai.APIConnectionError)):
        list(call(client, "sim/cut-1"))
    with pytest.raises((httpx.ReadTimeout, openai.APITimeoutError)):
        list(call(client.with_options(timeout=0.3), "sim/stall-1"))


def test_a_chat_stream_without_usage_has_no_chunk_of_it(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    chunks = client.chat.completions.create(model="sim/no-usage", messages=ASKED, stream=True, stream_options=options)
    assert all(chunk.choices for chunk in chunks)


def test_an_error_in_a_chat_stream_raises(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="asked to fail"):
        list(client.chat.completions.create(model="sim/error-event", messages=ASKED, stream=True))


def test_stream_options_are_refused_where_the_model_says_so(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    with pytest.raises(openai.UnprocessableEntityError, match="stream_options"):
        client.chat.completions.create(
            model="sim/no-stream-options", messages=ASKED, stream=True, stream_options=options
        )


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [(429, anthropic.RateLimitError, "rate_limit_error"), (529, anthropic.InternalServerError, "overloaded_error")],
)
def test_a_message_fails_in_anthropics_form(
    claude: anthropic.Anthropic, status: int, error: type[anthropic.APIStatusError], kind: str
) -> None:
    with pytest.raises(error) as caught:
        claude.messages.create(model=f"sim/error-{status}", max_tokens=5, messages=ASKED)
    body: Any = caught.value.body
    assert (caught.value.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)


@pytest.mark.parametrize("model", ["sim/error-first", "sim/error-event"])
def test_a_message_stream_that_is_overloaded_raises(claude: anthropic.Anthropic, model: str) -> None:
    with (
        pytest.raises(anthropic.APIStatusError, match="Overloaded"),
        claude.messages.stream(model=model, max_tokens=500, messages=ASKED) as events,
    ):
        events.get_final_message()


def test_a_message_is_cut_and_stalls_as_its_model_says(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.APIConnectionError):
        claude.messages.create(model="sim/cut-1", max_tokens=5, messages=ASKED)
    with pytest.raises(anthropic.APITimeoutError):
        claude.with_options(timeout=0.3).messages.create(model="sim/stall-1", max_tokens=5, messages=ASKED)
