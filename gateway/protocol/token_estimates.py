"""How many tokens a request's body may hold, from its bytes alone. Pure."""

from __future__ import annotations

from typing import Final

from gateway.protocol.attachments import Attachment, find_attachments
from gateway.types import Body

BYTES_PER_TOKEN: Final = 4


IMAGE_TOKENS: Final = 1_500
"""What one image counts in an estimate: about a high-detail image of 1024 x 1024 at the large providers."""


ATTACHMENT_BYTES_PER_TOKEN: Final = 16
"""Documents sent as base64: most of their bytes are fonts, images and compression."""


def estimate_input_tokens(body: Body) -> int:
    """Tokens that a body may hold, from its bytes: attachments in base64 count by their kind, the rest as text."""
    return _estimate(body, find_attachments(body), body, b'"input_image"')


def _estimate(body: Body, attachments: list[Attachment], text: Body, image: bytes) -> int:
    """`text`: the body, or the body without its attachments. `image`: the type of a part that is an image."""
    text_bytes, attached = len(body), 0
    for start, mark, end in attachments:
        text_bytes -= end - mark
        if not body.startswith(b'"data:image/', start):
            attached += (end - mark) // ATTACHMENT_BYTES_PER_TOKEN
    return -(-text_bytes // BYTES_PER_TOKEN) + attached + IMAGE_TOKENS * _count_images(text, image)


def _count_images(body: Body, image: bytes) -> int:
    """Members "type" that are `image`, quoted. A quote inside a text is escaped, so no text can look like one."""
    images = 0
    at = body.find(image) if image else -1
    while at >= 0:
        before = body[max(0, at - 32) : at].rstrip()
        images += before.endswith(b":") and before[:-1].rstrip().endswith(b'"type"')
        at = body.find(image, at + 1)
    return images
