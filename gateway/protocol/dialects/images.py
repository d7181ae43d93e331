"""Images (OpenAI API reference, Create image, image edit, image variation; image streaming events).

Images are priced by tokens, or per image of a quality and a size. If a request says `auto`, its answer names the
quality and size that were used. A stream has partial images of about 100 output tokens each, and ends with
`image_generation.completed` or `image_edit.completed`, and not with `[DONE]`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.protocol.dialects.dialect import (
    AnswerFacts,
    Bounds,
    Dialect,
    Json,
    RequestedImages,
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
from gateway.protocol.dialects.request_fields import whole_number

PARTIAL_IMAGE_TOKENS: Final = 100
TERMINALS: Final = frozenset({"image_generation.completed", "image_edit.completed"})
_MAX_IMAGES: Final = 100
_MAX_PARTIAL_IMAGES: Final = 10
_HEAD: Final = re.compile(rb'(?:event:[^\r\n]*\r?\n)?data: ?\{"type": ?"image_(?:generation|edit)\.partial_image"')
_INPUT_IMAGE_FIELDS: Final = ("image", "images", "mask")
"""Fields of a JSON body with input images: each has one image or a list of them."""
_CHOSEN_BY_PROVIDER: Final = ("", "auto")


def read_event(facts: StreamFacts, name: str, body: Json) -> None:
    """Reads one event of a stream."""
    kind = text(body.get("type")) or name
    if note_failure(facts, body, name):
        return
    facts.begun = facts.has_content = True
    if kind in TERMINALS:
        facts.usage = member(body, "usage") or facts.usage
        note_facts(facts, body)
        facts.finished |= {len(facts.finished)}
        facts.answer["data"] = [None] * len(facts.finished)
        facts.usage = facts.usage or {}
        facts.may_end = True
        if len(facts.finished) >= facts.expected:
            facts.end("completed", kind)


def read_answer(body: Json) -> AnswerFacts:
    """Reads images. Without reported tokens the usage is empty and not unknown, because the number of images counts."""
    return answer_facts(body, member(body, "usage") or {})


def bounds(fields: Mapping[str, Any]) -> Bounds:
    """Returns `n` images, each with the default bound, plus the partial images."""
    n = whole_number(fields, "n", maximum=_MAX_IMAGES) or 1
    partial = whole_number(fields, "partial_images", maximum=_MAX_PARTIAL_IMAGES, minimum=0) or 0
    quality, size = (value if isinstance(value := fields.get(name), str) else "" for name in ("quality", "size"))
    images = RequestedImages(n, *("" if one in _CHOSEN_BY_PROVIDER else one for one in (quality, size)))
    named = [fields.get(name) for name in _INPUT_IMAGE_FIELDS]
    read = sum(len(one) if isinstance(one, list) else one is not None for one in named)
    return Bounds(None, n, n, partial * PARTIAL_IMAGE_TOKENS, images=images, read_images=read)


IMAGES: Final = Dialect(
    "images",
    RequestForm(
        frozenset({"model", "prompt", "stream", "n", "partial_images", "quality", "size"}),
        bounds,
        default_model="dall-e-2",
    ),
    read_answer,
    error_body,
    StreamForm(
        read_event=read_event,
        close_broken=close_broken,
        close_capped=close_capped,
        delta=b'.partial_image"',
        delta_head=_HEAD,
        delta_tokens=PARTIAL_IMAGE_TOKENS,
        markers=(b".completed", b"[DONE]"),
        error=ERROR_EVENT,
        terminals=TERMINALS,
    ),
    multipart=True,
    error_status=error_status,
)
