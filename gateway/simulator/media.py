"""Images and sound: pictures of one colour, silent speech, transcriptions that describe the uploaded file.

The size of an answer depends on the request, as a provider's would: `n` pictures, one second of sound per fifteen
characters.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from email.parser import BytesParser
from email.policy import HTTP
from typing import Final

import orjson

from gateway.simulator.answer import send_frames, send_misbehaviour, send_text
from gateway.simulator.events import Frame
from gateway.simulator.http_exchange import HttpExchange
from gateway.simulator.request import JsonObject, ProviderError, parse_object
from gateway.simulator.text import tokens_of
from gateway.simulator.translation import choices_of, model_of
from gateway.simulator.vectors import known_behaviour

_DEFAULT_IMAGE_MODEL: Final = "dall-e-2"
_IMAGE_TOKENS: Final = 272
_PARTIAL_TOKENS: Final = 100
_INPUT_IMAGE_TOKENS: Final = 323
_CHARACTERS_PER_SECOND: Final = 15
_RATE: Final = 8_000
_SOUND_TYPES: Final[Mapping[str, bytes]] = {
    "mp3": b"audio/mpeg",
    "opus": b"audio/opus",
    "aac": b"audio/aac",
    "flac": b"audio/flac",
    "wav": b"audio/wav",
    "pcm": b"audio/pcm",
}
_TEXT_TYPES: Final = ("text", "srt", "vtt")
_SPEECH_TOKENS_PER_SECOND: Final = 10


async def image_generations(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/images/generations."""
    await _images(exchange, parse_object(body), "image_generation", images_in=0)


async def image_edits(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/images/edits."""
    fields, files = read_form(exchange, body)
    await _images(exchange, fields, "image_edit", images_in=len(files))


async def image_variations(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/images/variations."""
    fields, files = read_form(exchange, body)
    await _images(exchange, {"prompt": "a variation", **fields}, "image_edit", images_in=len(files))


async def speech(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/audio/speech."""
    fields = parse_object(body)
    model = model_of(fields)
    said = fields.get("input")
    if not isinstance(said, str) or not said:
        raise ProviderError("missing_field", "input is required", param="input")
    behaviour = known_behaviour(model)
    if await send_misbehaviour(exchange, behaviour, model):
        return
    seconds = max(1, -(-len(said) // _CHARACTERS_PER_SECOND))
    sound = _wav(seconds)
    if fields.get("stream_format") == "sse":
        pieces = (sound[at : at + _RATE] for at in range(0, len(sound), _RATE))
        events = [{"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()} for piece in pieces]
        tokens = len(tokens_of(said)), seconds * _SPEECH_TOKENS_PER_SECOND
        usage = {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
        done = {"type": "speech.audio.done", **({"usage": usage} if behaviour.usage else {})}
        await send_frames(exchange, behaviour, _frames([*events, done], named=False), b"")
        return
    kind = _SOUND_TYPES.get(str(fields.get("response_format") or "mp3"), b"audio/mpeg")
    await send_text(exchange, behaviour, sound, seconds, kind)


async def transcriptions(exchange: HttpExchange, body: bytes) -> None:
    """POST /v1/audio/transcriptions, and /v1/audio/translations."""
    fields, files = read_form(exchange, body)
    model = model_of(fields)
    if not files:
        raise ProviderError("missing_field", "file is required", param="file")
    behaviour = known_behaviour(model)
    if await send_misbehaviour(exchange, behaviour, model):
        return
    name, size_bytes = files[0]
    text = f"This is the simulator: {name} has {size_bytes} bytes of sound."
    words = len(tokens_of(text))
    seconds = round(max(0.1, size_bytes / (2 * _RATE)), 2)
    sound_tokens = int(seconds * _SPEECH_TOKENS_PER_SECOND) + 1
    usage: JsonObject = {
        "type": "tokens",
        "input_tokens": sound_tokens,
        "input_token_details": {"text_tokens": 0, "audio_tokens": sound_tokens},
        "output_tokens": words,
        "total_tokens": sound_tokens + words,
    }
    if "whisper" in model:
        usage = {"type": "duration", "seconds": seconds}
    usage_field = {"usage": usage} if behaviour.usage else {}
    if fields.get("stream") is True:
        events = [{"type": "transcript.text.delta", "delta": token} for token in tokens_of(text)]
        done = {"type": "transcript.text.done", "text": text, **usage_field}
        await send_frames(exchange, behaviour, _frames([*events, done], named=False), b"")
        return
    form = str(fields.get("response_format") or "json")
    if form in _TEXT_TYPES:
        await send_text(exchange, behaviour, _subtitles(form, text, seconds), words, b"text/plain; charset=utf-8")
        return
    answer: JsonObject = {"text": text, **usage_field}
    if form == "verbose_json":
        segment = {"id": 0, "seek": 0, "start": 0.0, "end": seconds, "text": text, "tokens": [], "temperature": 0.0}
        segment |= {"avg_logprob": -0.1, "compression_ratio": 1.0, "no_speech_prob": 0.0}
        answer = {"task": "transcribe", "language": "english", "duration": seconds, "segments": [segment], **answer}
    await send_text(exchange, behaviour, orjson.dumps(answer), words)


def read_form(exchange: HttpExchange, body: bytes) -> tuple[JsonObject, list[tuple[str, int]]]:
    """Reads the texts of a form, and its files as names and sizes. A JSON body has no files. Raises `ProviderError`."""
    kind = exchange.header(b"content-type") or b""
    if not kind.startswith(b"multipart/form-data"):
        return parse_object(body), []
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: %b\r\n\r\n%b" % (kind, body))
    fields: JsonObject = {}
    files: list[tuple[str, int]] = []
    for part in message.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        size = len(content) if isinstance(content, bytes) else 0
        if (filename := part.get_filename()) is not None:
            files.append((filename, size))
        elif isinstance(name, str) and isinstance(content, bytes):
            fields[name] = _value(content.decode("utf-8", "replace"))
    return fields, files


def _value(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdecimal() else text


async def _images(exchange: HttpExchange, fields: JsonObject, event: str, *, images_in: int) -> None:
    model = model_of(fields, _DEFAULT_IMAGE_MODEL)
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise ProviderError("missing_field", "prompt is required", param="prompt")
    behaviour = known_behaviour(model)
    if await send_misbehaviour(exchange, behaviour, model):
        return
    count, partial = choices_of(fields), fields.get("partial_images") or 0
    usage = _image_usage(prompt, images_in, count * _IMAGE_TOKENS + partial * _PARTIAL_TOKENS)
    usage_field = {"usage": usage} if behaviour.usage and not model.startswith("dall-e") else {}
    look = {"size": _chosen(fields, "size", "1024x1024"), "quality": _chosen(fields, "quality", "medium")}
    look |= {"background": "opaque", "output_format": "png"}
    picture = base64.b64encode(_png(prompt)).decode()
    created = int(time.time())
    if fields.get("stream") is True:
        at = {"b64_json": picture, "created_at": created, **look}
        events = [{"type": f"{event}.partial_image", "partial_image_index": n, **at} for n in range(partial)]
        for usage in usage_field.values():
            usage.pop("output_tokens_details")
        await send_frames(
            exchange, behaviour, _frames([*events, {"type": f"{event}.completed", **at, **usage_field}]), b""
        )
        return
    as_url = model.startswith("dall-e") and fields.get("response_format") != "b64_json"
    shown = {"url": f"https://images.example/{created}.png"} if as_url else {"b64_json": picture}
    answer = {"created": created, "data": [shown] * count, **look, **usage_field}
    await send_text(exchange, behaviour, orjson.dumps(answer), count)


def _image_usage(prompt: str, images_in: int, tokens_out: int) -> JsonObject:
    text, image = len(tokens_of(prompt)), images_in * _INPUT_IMAGE_TOKENS
    return {
        "input_tokens": text + image,
        "input_tokens_details": {"text_tokens": text, "image_tokens": image},
        "output_tokens": tokens_out,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": tokens_out},
        "total_tokens": text + image + tokens_out,
    }


def _chosen(fields: JsonObject, name: str, default: str) -> str:
    value = fields.get(name)
    return value if isinstance(value, str) and value != "auto" else default


def _frames(events: list[JsonObject], *, named: bool = True) -> Iterator[Frame]:
    for number, event in enumerate(events):
        name = b"event: %b\n" % str(event["type"]).encode() if named else b""
        yield Frame(b"%bdata: %b\n\n" % (name, orjson.dumps(event)), True, number)  # noqa: FBT003 - one token each


def _png(text: str, side: int = 8) -> bytes:
    """Returns a small square in a colour derived from the text."""
    colour = hashlib.sha256(text.encode()).digest()[:3]
    rows = (b"\x00" + colour * side) * side

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _wav(seconds: int) -> bytes:
    """Returns silence with 16 bits per sample."""
    data = bytes(2 * _RATE * seconds)
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, _RATE, 2 * _RATE, 2, 16)
    return head + struct.pack("<4sI", b"data", len(data)) + data


def _subtitles(form: str, text: str, seconds: float) -> bytes:
    if form == "text":
        return f"{text}\n".encode()
    end = f"00:{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"
    if form == "srt":
        return f"1\n00:00:00,000 --> {end},000\n{text}\n".encode()
    return f"WEBVTT\n\n00:00:00.000 --> {end}.000\n{text}\n".encode()
