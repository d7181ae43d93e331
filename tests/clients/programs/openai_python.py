"""openai-python: each call of its documentation, sync and async, whole and streamed."""

import asyncio
import io
import struct

from openai import AsyncOpenAI, OpenAI

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


def sync() -> None:
    client = OpenAI()
    assert client.chat.completions.create(model=MODEL, messages=MESSAGES).choices[0].message.content
    chunks = list(client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    called = client.chat.completions.create(model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="required")
    assert called.choices[0].message.tool_calls[0].function.name == "add"
    assert client.responses.create(model=MODEL, input="Say hello.").output_text
    with client.responses.stream(model=MODEL, input="Say hello.") as stream:
        assert stream.get_final_response().output_text
    assert client.embeddings.create(model="text-embedding-3-small", input=["a", "b"]).data[1].embedding
    assert client.images.generate(model="gpt-image-1", prompt="A windmill").data[0].b64_json
    image = ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")
    assert client.images.edit(model="gpt-image-1", image=image, prompt="A windmill").data[0].b64_json
    assert client.audio.speech.create(model="tts-1", voice="alloy", input="Hello").content
    assert client.audio.transcriptions.create(model="whisper-1", file=wav()).text
    assert client.moderations.create(input="Hello").results[0].flagged is False
    assert client.completions.create(model="gpt-3.5-turbo-instruct", prompt="Say hello.").choices[0].text
    assert [model.id for model in client.models.list()]


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
