"""Speech, transcriptions and translations (OpenAI API reference, Audio).

The answer to a speech request is audio without a usage. It is priced by the characters of `input`, or by tokens, which
are then estimated. A transcription reports tokens or seconds, and `verbose_json` reports a duration. If an answer in
plain text reports nothing, the duration of the uploaded file counts. A stream ends with `transcript.text.done`, and not
with `[DONE]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from gateway.protocol.dialects.dialect import (
    AnswerFacts,
    Bounds,
    Dialect,
    Json,
    RequestForm,
    StreamFacts,
    StreamForm,
    member,
    text,
)
from gateway.protocol.dialects.openai_form import (
    ERROR_EVENT,
    answer_facts,
    close_broken,
    close_capped,
    error_body,
    error_status,
    note_facts,
    note_failure,
)
from gateway.protocol.output_size import text_bytes
from gateway.protocol.token_estimates import BYTES_PER_TOKEN

TERMINALS: Final = frozenset({"transcript.text.done", "speech.audio.done"})
_HEAD: Final = re.compile(rb'(?:event:[^\r\n]*\r?\n)?data: ?\{"type": ?"(?:transcript\.text|speech\.audio)\.delta"')
_CHARACTERS_PER_SECOND: Final = 15
_SPOKEN_TOKENS_PER_SECOND: Final = 21
"""The rate of speech at ordinary speed: 1,250 tokens per minute at OpenAI, 900 characters of English per minute."""
_HOLD_FACTOR: Final = 3
"""A speech's hold is this many times its estimate, because in other languages a character takes longer to speak."""
_MIN_SPEED: Final = 0.25


def read_event(facts: StreamFacts, name: str, body: Json) -> None:
    """Reads one event of a stream."""
    kind = text(body.get("type")) or name
    if note_failure(facts, body, name):
        return
    facts.begun = facts.has_content = True
    if kind in TERMINALS:
        facts.usage = member(body, "usage") or facts.usage
        note_facts(facts, body)
        facts.end("completed", kind)


def delta_bytes(body: Json) -> int:
    """Returns the size of the text that a delta adds. Audio adds none."""
    return text_bytes(body.get("delta"))


def read_answer(body: Json) -> AnswerFacts:
    """Reads a transcription in JSON: its usage, or else its duration."""
    usage = member(body, "usage")
    if usage is None and (seconds := _seconds(body.get("duration"))) is not None:
        usage = {"type": "duration", "seconds": seconds}
    return answer_facts(body, usage)


def output_bytes(body: Json) -> int:
    """Returns the length of a transcription."""
    content = body.get("text")
    return len(content.encode("utf-8", "replace")) if isinstance(content, str) else 0


def streams_speech(fields: Mapping[str, Any]) -> bool:
    """Whether a speech is streamed as events, as `stream_format` says."""
    return fields.get("stream_format") == "sse"


def _seconds(value: object) -> float | None:
    """Returns a duration from a number or its text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = Decimal(str(value))
    except InvalidOperation:
        return None
    return float(seconds) if seconds.is_finite() and 0 < seconds < 10**9 else None


def speech_bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns the characters of `input`, which only the request states, and an estimate of the tokens."""
    content = fields.get("input")
    characters = len(content) if isinstance(content, str) else 0
    speed = fields.get("speed")
    pace = max(float(speed), _MIN_SPEED) if isinstance(speed, int | float) and not isinstance(speed, bool) else 1.0
    output_tokens = int(characters * _SPOKEN_TOKENS_PER_SECOND / _CHARACTERS_PER_SECOND / pace) + 1
    usage = {
        "characters": characters,
        "input_tokens": -(-characters // BYTES_PER_TOKEN),
        "output_tokens": output_tokens,
    }
    return Bounds(_HOLD_FACTOR * output_tokens, units={"character": Decimal(characters)}, usage=usage)


def transcription_bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns the measured seconds of the uploaded file, and an estimate of the tokens."""
    seconds = fields.get("file_seconds")
    if not isinstance(seconds, Decimal):
        return Bounds()
    input_tokens, output_tokens = (
        int(seconds * rate) + 1 for rate in (AUDIO_TOKENS_PER_SECOND, _TEXT_TOKENS_PER_SECOND)
    )
    usage = {"seconds": float(seconds), "input_tokens": input_tokens, "output_tokens": output_tokens}
    return Bounds(input_tokens=input_tokens, units={"second": seconds}, usage=usage)


_TEXT_TOKENS_PER_SECOND: Final = 4
"""The rate of the transcribed text if people speak fast."""
AUDIO_TOKENS_PER_SECOND: Final = 20
"""The rate of the audio itself: about 1,000 tokens per minute at OpenAI, plus a margin."""

_STREAM: Final = StreamForm(
    read_event=read_event,
    close_broken=close_broken,
    close_capped=close_capped,
    delta=b'.delta"',
    delta_head=_HEAD,
    delta_bytes=delta_bytes,
    markers=(b"transcript.text.done", b"speech.audio.done", b"[DONE]"),
    error=ERROR_EVENT,
    terminals=TERMINALS,
)
SPEECH: Final = Dialect(
    "speech",
    RequestForm(frozenset({"model", "input", "speed", "stream_format"}), speech_bounds, streams=streams_speech),
    read_answer,
    error_body,
    _STREAM,
    media=(b"audio/", b"application/octet-stream", b"video/"),
    error_status=error_status,
)
TRANSCRIPTION: Final = Dialect(
    "transcription",
    RequestForm(frozenset({"model", "stream", "response_format"}), transcription_bounds, needs_duration=True),
    read_answer,
    error_body,
    _STREAM,
    multipart=True,
    media=(b"text/plain", b"text/vtt", b"text/srt", b"application/x-subrip"),
    error_status=error_status,
    output_bytes=output_bytes,
)
