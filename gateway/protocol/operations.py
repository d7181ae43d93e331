"""What may be asked of the gateway's own path to a provider, as data: a row a call. Pure.

| operation              | request                            | goes to               | is charged                    |
|------------------------|------------------------------------|-----------------------|-------------------------------|
| responses              | POST /v1/responses                 | the model's route     | its usage, else an estimate   |
| responses.compact      | POST /v1/responses/compact         | the model's route     | its usage, else an estimate   |
| responses.input_tokens | POST /v1/responses/input_tokens    | the model's route     | nothing                       |
| responses.retrieve     | GET /v1/responses/{id}             | who made the response | usage, once for each response |
| responses.delete       | DELETE /v1/responses/{id}          | who made the response | nothing                       |
| responses.cancel       | POST /v1/responses/{id}/cancel     | who made the response | usage, once for each response |
| responses.input_items  | GET /v1/responses/{id}/input_items | who made the response | nothing                       |
| chat.completions       | POST /v1/chat/completions          | the model's route     | its usage, else an estimate   |
| completions            | POST /v1/completions               | the model's route     | its usage, else an estimate   |
| embeddings             | POST /v1/embeddings                | the model's route     | its usage, else an estimate   |
| messages               | POST /v1/messages                  | the model's route     | its usage, else an estimate   |
| images.generations     | POST /v1/images/generations        | the model's route     | its usage, else its pictures  |
| images.edits           | POST /v1/images/edits              | the model's route     | its usage, else its pictures  |
| images.variations      | POST /v1/images/variations         | the model's route     | its usage, else its pictures  |
| audio.speech           | POST /v1/audio/speech              | the model's route     | its characters or tokens      |
| audio.transcriptions   | POST /v1/audio/transcriptions      | the model's route     | its usage, else its seconds   |
| audio.translations     | POST /v1/audio/translations        | the model's route     | its usage, else its seconds   |
| moderations            | POST /v1/moderations               | the model's route     | by the request                |
| rerank                 | POST /v1/rerank                    | the model's route     | its usage, else an estimate   |

Only `responses` makes a response that the gateway remembers. What an upstream does not offer is its own 404, passed on.
Each row names its dialect: how its bodies, its streams and its errors look (`dialects/`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from gateway.protocol.dialects.audio import SPEECH, TRANSCRIPTION
from gateway.protocol.dialects.chat import CHAT, COMPLETIONS
from gateway.protocol.dialects.dialect import Dialect
from gateway.protocol.dialects.embeddings import EMBEDDINGS
from gateway.protocol.dialects.images import IMAGES
from gateway.protocol.dialects.messages import MESSAGES
from gateway.protocol.dialects.moderations import MODERATIONS
from gateway.protocol.dialects.rerank import RERANK
from gateway.protocol.dialects.responses import RESPONSES

PREFIX: Final = "/v1/responses"
_VERSION: Final = "/v1"
_ID: Final = re.compile(r"[A-Za-z0-9_\-.~:=+]{1,512}")
_DOTS: Final = frozenset({".", ".."})

Charge = Literal["usage or estimate", "usage", "nothing"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. `route`: its path, "{id}" for a response's id.

    `needs_input`: its body must have one. `may_be_missing`: not every upstream offers it, and one that does not may
    answer 404 in whatever form. `makes_response`: what it makes can be named later. `kind`: what it is to OpenTelemetry
    (semantic conventions, gen_ai.operation.name); "": nothing that these have a name for. `bounds_output`: its body may
    say how much is to be put out, where its dialect has a field for that.
    """

    name: str
    method: str
    route: str
    charge: Charge
    dialect: Dialect
    needs_input: bool = False
    may_be_missing: bool = False
    makes_response: bool = False
    kind: str = ""
    bounds_output: bool = True

    @property
    def span(self) -> str:
        """What it is called in traces."""
        return self.kind or self.name.rpartition(".")[2]

    @property
    def by_id(self) -> bool:
        """Whether it is about a response that exists."""
        return "{id}" in self.route


@dataclass(frozen=True, slots=True)
class Target:
    """An operation as it was asked for. `path` goes to the upstream, behind its base URL."""

    operation: Operation
    path: bytes
    response_id: str | None = None


CREATE: Final = Operation(
    "responses", "POST", PREFIX, "usage or estimate", RESPONSES, needs_input=True, makes_response=True, kind="chat"
)


def _below(name: str, method: str, tail: str, charge: Charge) -> Operation:
    """A row below /v1/responses."""
    return Operation(
        f"responses.{name}", method, PREFIX + tail, charge, RESPONSES, may_be_missing=True, bounds_output=False
    )


def _call(name: str, dialect: Dialect, kind: str = "") -> Operation:
    """A row of its own: what is charged is what its answer reports."""
    return Operation(name, "POST", f"{_VERSION}/{name.replace('.', '/')}", "usage or estimate", dialect, kind=kind)


OPERATIONS: Final = (
    CREATE,
    _below("compact", "POST", "/compact", "usage or estimate"),
    _below("input_tokens", "POST", "/input_tokens", "nothing"),
    _below("retrieve", "GET", "/{id}", "usage"),
    _below("delete", "DELETE", "/{id}", "nothing"),
    _below("cancel", "POST", "/{id}/cancel", "usage"),
    _below("input_items", "GET", "/{id}/input_items", "nothing"),
    _call("chat.completions", CHAT, kind="chat"),
    _call("completions", COMPLETIONS, kind="text_completion"),
    _call("embeddings", EMBEDDINGS, kind="embeddings"),
    _call("messages", MESSAGES, kind="chat"),
    _call("images.generations", IMAGES),
    _call("images.edits", IMAGES),
    _call("images.variations", IMAGES),
    _call("audio.speech", SPEECH),
    _call("audio.transcriptions", TRANSCRIPTION),
    _call("audio.translations", TRANSCRIPTION),
    _call("moderations", MODERATIONS),
    _call("rerank", RERANK),
)
_BY_ID: Final = tuple(operation for operation in OPERATIONS if operation.by_id)
_TARGETS: Final[Mapping[tuple[str, str], Target]] = MappingProxyType(
    {
        (operation.method, operation.route): Target(operation, operation.route.removeprefix(_VERSION).encode())
        for operation in OPERATIONS
        if not operation.by_id
    }
)


def is_response_id(text: str) -> bool:
    """Whether a response's id can stand in a path as it is."""
    return _ID.fullmatch(text) is not None and text not in _DOTS


def find(method: str, path: str) -> Target | None:
    """The operation that a request asks for; None: not one of these, and not for the request handler."""
    target = _TARGETS.get((method, path))
    if target is not None or not path.startswith(PREFIX):
        return target
    for operation in _BY_ID:
        head, _, rest = operation.route.partition("{id}")
        response_id = path[len(head) : len(path) - len(rest)]
        if operation.method == method and path.startswith(head) and path.endswith(rest) and is_response_id(response_id):
            return Target(operation, path.removeprefix(_VERSION).encode(), response_id)
    return None
