"""Forms with files, and small files of sound, as programs send them."""

import struct
from collections.abc import Sequence

BOUNDARY = "b0undary"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
RATE = 8_000


def text_part(name: str, value: bytes) -> bytes:
    """One part that is a text."""
    return b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (
        BOUNDARY.encode(),
        name.encode(),
        value,
    )


def file_part(name: str, filename: str, content: bytes, kind: str = "application/octet-stream") -> bytes:
    """One part that is a file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
    return f"{head}Content-Type: {kind}\r\n\r\n".encode() + content + b"\r\n"


def closed(*parts: bytes) -> bytes:
    """A whole form."""
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def form(texts: Sequence[tuple[str, bytes]], files: Sequence[tuple[str, str, bytes]]) -> tuple[bytes, str]:
    """A form, its files first, so that every field stands behind them; and its Content-Type."""
    parts = [file_part(*one) for one in files] + [text_part(*one) for one in texts]
    return closed(*parts), CONTENT_TYPE


def wav(seconds: float) -> bytes:
    """So much silence, 16 bits a sample."""
    data = bytes(2 * int(RATE * seconds))
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return head + struct.pack("<4sI", b"data", len(data)) + data
