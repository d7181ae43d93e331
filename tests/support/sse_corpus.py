"""Event streams for the observer's tests: a slow, obvious parser, and strategies that make and cut streams.

read(stream)      every event of a whole stream, line by line, as the WHATWG specification says
is_boundary(...)  whether these bytes end after a blank line
streams()         bytes of a stream with any events, comments, line ends
cuts(stream)      the same bytes in any chunks
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

LINE_END = re.compile(rb"\r\n|\n|\r")
TERMINALS = ("response.completed", "response.incomplete", "response.failed")
USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 18,
    "cost": 0.00125,
}


@dataclass
class Reading:
    """What a client knows at the end of a whole stream."""

    terminal: str | None = None
    usage: object = None
    done: bool = False
    error_seen: bool = False
    opening_id: str | None = None
    terminal_id: str | None = None

    @property
    def response_id(self) -> str | None:
        return self.terminal_id or self.opening_id


def is_boundary(stream: bytes) -> bool:
    lines = LINE_END.split(stream.removeprefix(b"\xef\xbb\xbf"))
    return lines[-1] == b"" and lines[-2:-1] in ([], [b""]) and stream != b"\xef\xbb\xbf"


def read(stream: bytes) -> Reading:
    reading, deltas = Reading(), 0
    name, data = "", list[bytes]()
    for line in [*LINE_END.split(stream.removeprefix(b"\xef\xbb\xbf")), b""]:
        field, _, value = line.partition(b":")
        if field == b"event":
            name = value.removeprefix(b" ").decode()
        elif field == b"data":
            data.append(value.removeprefix(b" "))
        elif not line:
            deltas += _dispatch(reading, name, b"\n".join(data), deltas) if data else 0
            name, data = "", []
    return reading


def _dispatch(reading: Reading, name: str, data: bytes, deltas: int) -> bool:
    if data == b"[DONE]":
        reading.done = True
        return False
    event: dict[str, Any] = json.loads(data)
    kind = event.get("type", name)
    response = event.get("response", {})
    if kind == "error":
        reading.error_seen = True
    if kind in TERMINALS:
        reading.terminal = reading.terminal or kind
        reading.usage = reading.usage or response.get("usage")
        reading.terminal_id = reading.terminal_id or response.get("id")
    if kind == "response.created" and not deltas:
        reading.opening_id = reading.opening_id or response["id"]
    return str(event.get("type")).endswith(".delta")


def frame(event: dict[str, Any] | str, *, name: str | None = None, space: str = " ", split: bool = False) -> str:
    """One event with LF line ends: no `event:` line where `name` is None; `split`: several data lines."""
    text = event if isinstance(event, str) else json.dumps(event, indent=1 if split else None, separators=(",", ":"))
    head = f"event:{space}{name}\n" if name is not None else ""
    return head + "".join(f"data:{space}{line}\n" for line in text.split("\n")) + "\n"


texts = st.one_of(
    st.sampled_from(
        ['"type":"response.completed"', "error", "[DONE]", "data: [DONE]\n\n", "\r\n\r\n", '"usage":{}', " hi"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)


def _event(kind: str, text: str, number: int) -> dict[str, Any]:
    match kind:
        case "response.created":
            return {
                "type": kind,
                "sequence_number": number,
                "response": {"id": f"opening_{number}", "metadata": {"k": text}},
            }
        case "response.completed" | "response.incomplete" | "response.failed":
            usage = None if text == "error" else USAGE
            return {
                "type": kind,
                "sequence_number": number,
                "response": {"id": f"terminal_{number}", "note": text, "usage": usage},
            }
        case "error":
            return {"type": kind, "sequence_number": number, "error": {"message": text}}
        case _:
            return {"type": kind, "sequence_number": number, "delta": text}


KINDS = (
    *("response.output_text.delta",) * 6,
    *("response.created", "response.output_item.done", "acme:thing", "error", "response.reasoning.delta", *TERMINALS),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    parts = [draw(st.sampled_from(["", "\ufeff"]))]
    ends = draw(st.sampled_from([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n", "\r"]]))
    named = draw(st.booleans())
    for number in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from([*KINDS, "[DONE]", ":"]))
        text = draw(texts)
        if kind == ":":
            block = ": data: [DONE] " + text.replace("\n", " ").replace("\r", " ") + "\n\n"
        elif kind == "[DONE]":
            block = frame(kind)
        else:
            event = _event(kind, text, number)
            if draw(st.integers(0, 9)) == 0:
                del event["type"]
            name = kind if named or "type" not in event else None
            block = frame(event, name=name, space=draw(st.sampled_from(["", " "])), split=draw(st.booleans()))
        for line in block.split("\n")[:-1]:
            joins = not line and parts[-1].endswith("\r")  # LF alone would make one CRLF of the two line ends
            parts.append(line + draw(st.sampled_from([end for end in ends if not (joins and end == "\n")])))
    stream = "".join(parts).encode()
    return stream if draw(st.booleans()) else stream.rstrip(b"\r\n")


@st.composite
def cuts(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    size = draw(st.sampled_from([0, 0, 1, 2, 7]))
    if size:
        return [stream[at : at + size] for at in range(0, len(stream), size)]
    return [stream[start:end] for start, end in zip([0, *places], [*places, len(stream)], strict=True)]
