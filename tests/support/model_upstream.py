"""A scripted upstream that answers by model: it fails for some models, and works for the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.support.scripted_upstream import Peer, Step, answer, request


@dataclass
class ModelUpstream:
    """`answers` maps models to steps; all others get `otherwise` (mutable). `asked` counts requests by model."""

    otherwise: Step
    answers: dict[str, Step] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def script(self) -> tuple[Step, ...]:
        """The script of a connection: it answers requests until it is closed."""
        return (self._answer_all,)

    async def _answer_all(self, peer: Peer) -> None:
        read = request()
        while True:
            await read(peer)
            _, _, body = peer.upstream.requests[-1].partition(b"\r\n\r\n")
            model = json.loads(body)["model"] if body else ""
            self.asked[model] += 1
            await self.answers.get(model, self.otherwise)(peer)


def refusal(status: int, *, headers: Mapping[str, str] | None = None, body: bytes | None = None) -> Step:
    """An error as providers answer it, in JSON."""
    text = (
        b'{"error": {"message": "no", "type": "server_error", "param": null, "code": null}}' if body is None else body
    )
    lines = {"content-type": "application/json", **(headers or {})}
    fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode()
    return answer(text, status=b"%d No" % status, headers=fields)
