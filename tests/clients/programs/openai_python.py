"""openai-python: each call of its documentation, sync and async, whole and streamed."""

import asyncio
import io
import struct

from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

MODEL, MESSAGES = "gpt-4o-mini", [{"role": "user", "content": "Say hello."}]
TOOL = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}


def wav() -> io.BytesIO:
    data = bytes(16_000)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    file = io.BytesIO(head + struct.pack("<4sI", b"data", len(data)) + data)
    file.name = "a.wav"
    return file


class Sum(BaseModel):
    a: int


def sync() -> None:
    client = OpenAI()
    chat(client)
    media(client)
    assert client.responses.create(model=MODEL, input="Say hello.").output_text
    with client.responses.stream(model=MODEL, input="Say hello.") as stream:
        assert stream.get_final_response().output_text
    assert client.responses.parse(model=MODEL, input="Add.", text_format=Sum).output_parsed is not None
    assert client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]).data[1].embedding
    assert client.embeddings.create(model="text-embedding-3-small", input=[[1, 2], [3]]).data[1].embedding
    assert client.moderations.create(input="Hello").results[0].flagged is False
    assert client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Say hello.").choices[0].text
    pieces = list(client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Say hello.", stream=True))
    assert "".join(piece.choices[0].text for piece in pieces)
    assert [model.id for model in client.models.list()]


def chat(client: OpenAI) -> None:
    assert client.chat.completions.create(model=MODEL, messages=MESSAGES).choices[0].message.content
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    called = client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="required")
    assert called.choices[0].message.tool_calls[0].function.name == "add"
    counted = {"include_usage": True}
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True, stream_options=counted))
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens > 0) == ([], True)
    assert client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Sum).choices[0].message.parsed
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, tools=[TOOL]) as stream:
        assert stream.get_final_completion().choices
    assert len(client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2).choices) == 2


def media(client: OpenAI) -> None:
    image = ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")
    assert client.images.generate(model="gpt-image-1", prompt="A windmill").data[0].b64_json
    assert client.images.edit(model="gpt-image-1", image=image, prompt="A windmill").data[0].b64_json
    edited = client.images.edit(model="gpt-image-1", image=[image, image], mask=image, prompt="x", stream=True)
    assert [event.type for event in edited][-1] == "image_edit.completed"
    assert client.images.create_variation(image=image).data
    assert client.audio.speech.create(model="tts-1", voice="alloy", input="Hello").content
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="Hello") as spoken:
        assert b"".join(spoken.iter_bytes())
    for form in ("json", "text", "srt", "vtt", "verbose_json"):
        heard = client.audio.transcriptions.create(model="whisper-1", file=wav(), response_format=form)
        assert heard if isinstance(heard, str) else heard.text
    assert client.audio.translations.create(model="whisper-1", file=wav()).text


async def unsync() -> None:
    async with AsyncOpenAI() as client:
        assert (await client.chat.completions.create(model=MODEL, messages=MESSAGES)).choices[0].message.content
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        assert [chunk async for chunk in stream]
        assert (await client.responses.create(model=MODEL, input="Say hello.")).output_text
        events = [event.type async for event in await client.responses.create(model=MODEL, input="x", stream=True)]
        assert events[-1] == "response.completed"
        assert (await client.embeddings.create(model="text-embedding-3-small", input="a")).data[0].embedding
        pictures = await client.images.generate(model="gpt-image-1", prompt="x", stream=True, partial_images=1)
        assert [event.type async for event in pictures][-1] == "image_generation.completed"
        heard = await client.audio.transcriptions.create(model="gpt-4o-transcribe", file=wav(), stream=True)
        assert [event.type async for event in heard][-1] == "transcript.text.done"
        assert (await client.moderations.create(input="Hello")).results


sync()
asyncio.run(unsync())
