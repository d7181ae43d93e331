"""Estimates the number of tokens in a request's body from its bytes. Pure.

    estimate   the probable number, for limits, and for charges without a known usage
    bound      the most that any tokenizer makes of it, for the hold

Tokenizers of large models fall back to single bytes, so that no text has more tokens than bytes. Most text has far
fewer, but scripts with four bytes per character, and text that is made to be expensive, come close. For the bound of a
small body its texts are counted, and for that of a large body every byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

import orjson

from gateway.protocol.attachments import Attachment, find_attachments
from gateway.protocol.byte_search import PIECE_BYTES, contains, find
from gateway.protocol.lenient_json import parse_object
from gateway.types import Body

BYTES_PER_TOKEN: Final = 4
IMAGE_TOKENS: Final = 1_500
"""The tokens of one image in an estimate: about those of a high-detail image of 1024 x 1024 at the large providers."""
MAX_IMAGE_TOKENS: Final = 48_200
"""The tokens of one image in a bound: those of the largest image in high detail for gpt-4o-mini. No other model needs
more. A price row may state a lower number: `max_image_tokens`."""
MAX_EDITED_IMAGE_TOKENS: Final = 16_384
"""The same if images are edited: gpt-image reads 6,144 tokens and its tiles of each image in high fidelity."""
ATTACHMENT_BYTES_PER_TOKEN: Final = 16
"""For documents and audio in base64, most of whose bytes are fonts, images, sound and compression."""
_SMALL_BYTES: Final = 4096
_TOKENS_PER_ITEM: Final = 4  # tell a model where a message begins, and whose it is
_NOT_READ: Final = frozenset({"model", "metadata", "tools", "user", "service_tier", "previous_response_id"})
_ESCAPED_LETTER: Final = re.compile(rb"\\u00[4-7][0-9a-fA-F]")
_ESCAPE_BYTES: Final = len(b"\\u0000")


class InputTokens(NamedTuple):
    """The probable number of tokens in a body, and the most. `bound` counts `images` as the largest ones."""

    estimate: int
    bound: int
    images: int = 0


def estimate_input_tokens(body: Body) -> int:
    """Returns the probable number of tokens. Attachments in base64 count by their kind, the rest as text."""
    return count_input_tokens(body, find_attachments(body), body, b'"input_image"').estimate


def count_input_tokens(
    body: Body,
    attachments: list[Attachment],
    text: Body,
    image: bytes,
    fields: Mapping[str, Any] | None = None,
    read_images: int = 0,
) -> InputTokens:
    """Returns the tokens in a body.

    `text` is the body, with or without its attachments. `image` is the type of a part that is an image, in quotes.
    `fields` is the decoded body. `read_images` is the number of images that it names in other ways than by such parts.
    """
    text_bytes, images, attached, max_attached = len(body), 0, 0, 0
    for _, mark, end, kind in attachments:
        size = end - mark
        if kind == "text":
            continue
        text_bytes -= size
        if kind == "image":
            images += 1
        else:
            attached += size // ATTACHMENT_BYTES_PER_TOKEN
            max_attached += size if kind == "file" else size // ATTACHMENT_BYTES_PER_TOKEN
    images = max(images, read_images, _count_images(text, image, fields))
    estimate = -(-text_bytes // BYTES_PER_TOKEN) + attached + IMAGE_TOKENS * images
    texts = text_bytes if fields is None or len(body) > _SMALL_BYTES else _text_bytes(fields)
    return InputTokens(estimate, max(estimate, texts + max_attached + MAX_IMAGE_TOKENS * images), images)


def _text_bytes(fields: Mapping[str, Any]) -> int:
    """Returns the bytes of all that a model may read of a small body: its texts, and the schemas of its tools."""
    total = 0
    waiting = [value for name, value in fields.items() if name not in _NOT_READ]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            total += len(node) if node.isascii() else len(node.encode("utf-8", "replace"))
        elif isinstance(node, list):
            waiting += node
            total += _TOKENS_PER_ITEM
        elif isinstance(node, dict):
            waiting += node.values()
            total += _TOKENS_PER_ITEM
    tools = fields.get("tools")
    return total + len(orjson.dumps(tools)) if isinstance(tools, list) and tools else total


def _count_images(body: Body, image: bytes, fields: Mapping[str, Any] | None) -> int:
    """Counts the members "type" with the value `image`. No text can look like one, because its quotes are escaped."""
    if not image:
        return 0
    is_short = len(body) <= PIECE_BYTES
    if _ESCAPED_LETTER.search(body) if is_short else contains(_ESCAPED_LETTER, body, _ESCAPE_BYTES):
        return _count_images_in(fields if fields is not None else parse_object(bytes(body)), image)
    images = 0
    seek: Callable[..., int] = body.find if is_short else partial(find, body)
    at = seek(image)
    while at >= 0:
        before = body[max(0, at - 32) : at].rstrip()
        images += before.endswith(b":") and before[:-1].rstrip().endswith(b'"type"')
        at = seek(image, at + 1)
    return images


def _count_images_in(fields: object, image: bytes) -> int:
    """Counts the same in a decoded body, if names may be spelt with escapes."""
    kind, images = image.decode().strip('"'), 0
    waiting = [fields]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            images += node.get("type") == kind
            waiting += node.values()
    return images
