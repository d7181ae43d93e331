"""Step 2 for a form with files: reads the same few fields as from a JSON body, in any order of its parts.

    read_form_request(body, content_type, form) -> RequestBody    or GatewayError

All fields of a form are texts, from which numbers and flags are parsed. Files count by their kind: an image as an
image, sound by its seconds. A large form is on disk, and is read in slices.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import GatewayError
from gateway.protocol.attribution import NO_LABELS, USER_FIELDS, BodyLabels, read_labels
from gateway.protocol.audio_length import seconds_of
from gateway.protocol.byte_search import InMemory, Readable, Window
from gateway.protocol.dialects.dialect import RequestForm
from gateway.protocol.multipart import MAX_TEXT_BYTES, Form, boundary_of, read_form
from gateway.protocol.request_body import HeldBody, RequestBody, model_of, with_bounds
from gateway.protocol.request_work import FILES_ALONE, NO_WORK
from gateway.protocol.token_estimates import BYTES_PER_TOKEN, IMAGE_TOKENS, MAX_EDITED_IMAGE_TOKENS
from gateway.protocol.usage_reader import NO_FACTS
from gateway.types import Body

_FLAGS: Final[Mapping[str, bool]] = MappingProxyType({"true": True, "false": False, "True": True, "False": False})
_NUMBERS: Final = frozenset({"n", "partial_images"})
_MAX_DIGITS: Final = 9
_SOUND: Final = "file"
_IMAGES: Final = ("image", "mask")


def read_form_request(body: Body | Readable, content_type: bytes, form: RequestForm) -> RequestBody:
    """Reads a form. Raises GatewayError if it is ambiguous or incomplete."""
    source: Readable = InMemory(body) if isinstance(body, bytes | bytearray) else body
    parts = read_form(source, boundary_of(content_type), form.fields)
    fields: dict[str, Any] = {name: _value(name, text) for name, text in parts.texts.items()}
    sound = next((part for part in parts.files if part.name == _SOUND), None)
    if sound is not None and form.needs_duration:
        fields["file_seconds"] = seconds_of(Window(source, sound.start, sound.end))
    bounds, stream = form.bounds(fields), form.streams(fields)
    images = sum(part.name.startswith(_IMAGES) for part in parts.files)
    texts = -(-parts.text_bytes // BYTES_PER_TOKEN)
    max_tokens = bounds.output_tokens
    return RequestBody(
        HeldBody(body if isinstance(body, bytes | bytearray) else b""),
        model_of(fields.get("model"), form),
        stream,
        None if max_tokens is None else max_tokens * bounds.runs + bounds.more_output_tokens,
        None,
        texts + images * IMAGE_TOKENS + (bounds.input_tokens or 0),
        facts=with_bounds(NO_FACTS, bounds),
        bounds=bounds,
        names_model="model" in fields,
        form=parts,
        input_tokens_bound=parts.text_bytes + images * MAX_EDITED_IMAGE_TOKENS + (bounds.input_tokens or 0),
        work=FILES_ALONE if parts.files else NO_WORK,
        on_disk=None if isinstance(body, bytes | bytearray) else body,
        labels=_labels(source, parts),
    )


def _labels(source: Readable, form: Form) -> BodyLabels:
    named = [part for part in form.parts if part.name in USER_FIELDS and part.filename is None]
    if not named:
        return NO_LABELS
    texts = {part.name: source.read(part.start, min(part.end, part.start + MAX_TEXT_BYTES)) for part in named}
    return read_labels({name: text.decode("utf-8", "replace") for name, text in texts.items()})


def _value(name: str, text: str) -> Any:
    if name in _NUMBERS:
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            raise GatewayError("invalid_field", f"{name!r} must be a whole number.", param=name)
        return int(text)
    if name == "stream":
        if text not in _FLAGS:
            raise GatewayError("invalid_field", "'stream' must be true or false.", param="stream")
        return _FLAGS[text]
    return text
