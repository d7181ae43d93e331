"""What remains of the rate limits, as headers of an answer. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

_SECOND_MS: Final = 1000


class Rates(NamedTuple):
    """What remains of the rate limits, for the scope that is nearest its limit. A limit of -1 means no limit."""

    requests_limit: int = -1
    requests_left: int = -1
    requests_reset_ms: int = 0
    tokens_limit: int = -1
    tokens_left: int = -1
    tokens_reset_ms: int = 0

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Returns `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, the names that OpenAI uses."""
        out: list[tuple[bytes, bytes]] = []
        if self.requests_limit >= 0:
            out += _headers(b"requests", self.requests_limit, self.requests_left, self.requests_reset_ms)
        if self.tokens_limit >= 0:
            out += _headers(b"tokens", self.tokens_limit, self.tokens_left, self.tokens_reset_ms)
        return out


NO_RATES: Final = Rates()


def _headers(unit: bytes, limit: int, left: int, reset_ms: int) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-ratelimit-limit-" + unit, b"%d" % limit),
        (b"x-ratelimit-remaining-" + unit, b"%d" % left),
        (b"x-ratelimit-reset-" + unit, _duration(reset_ms)),
    ]


def _duration(ms: int) -> bytes:
    """Formats a duration like OpenAI: 20ms, 1.5s, 6m0s."""
    if ms < _SECOND_MS:
        return b"%dms" % ms
    minutes, rest = divmod(ms, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s".encode() if minutes else f"{seconds}s".encode()
