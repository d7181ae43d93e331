"""The table of operations: the calls that the gateway passes on to providers, one row each. Pure.

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
| messages.count_tokens  | POST /v1/messages/count_tokens     | the model's route     | nothing; has a limit of its   |
|                        |                                    |                       | own                           |
| images.generations     | POST /v1/images/generations        | the model's route     | its usage, else its pictures  |
| images.edits           | POST /v1/images/edits              | the model's route     | its usage, else its pictures  |
| images.variations      | POST /v1/images/variations         | the model's route     | its usage, else its pictures  |
| audio.speech           | POST /v1/audio/speech              | the model's route     | its characters or tokens      |
| audio.transcriptions   | POST /v1/audio/transcriptions      | the model's route     | its usage, else its seconds   |
| audio.translations     | POST /v1/audio/translations        | the model's route     | its usage, else its seconds   |
| moderations            | POST /v1/moderations               | the model's route     | by the request                |
| rerank                 | POST /v1/rerank                    | the model's route     | its usage, else an estimate   |

Only `responses` makes a response that the gateway remembers. If an upstream does not offer an operation, its own 404 is
passed on. Each row names the dialect of its bodies, streams and errors (`dialects/`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Literal

from gateway.protocol.dialects.audio import SPEECH, TRANSCRIPTION
from gateway.protocol.dialects.chat import CHAT, COMPLETIONS
from gateway.protocol.dialects.dialect import Dialect
from gateway.protocol.dialects.embeddings import EMBEDDINGS
from gateway.protocol.dialects.images import IMAGES
from gateway.protocol.dialects.messages import COUNT_TOKENS, MESSAGES
from gateway.protocol.dialects.moderations import MODERATIONS
from gateway.protocol.dialects.rerank import RERANK
from gateway.protocol.dialects.responses import RESPONSES

PREFIX: Final = "/v1/responses"
_VERSION: Final = "/v1"
_ID: Final = re.compile(r"[A-Za-z0-9_\-.~:=+]{1,512}")
_DOTS: Final = frozenset({".", ".."})

Charge = Literal["usage or estimate", "usage", "nothing", "free"]
"""What a call costs. A "free" call holds nothing and counts against no limit but a bound of its own
(`limits.token_counts_per_minute`). A call that costs "nothing" still counts as a request.
"""


def names_of(operation: str) -> tuple[str, ...]:
    """Returns the names that stand for an operation in a list: its own, and the groups that it belongs to.

    "images.*" stands for all operations that begin so, "responses.*" for `responses` too, and "*" for every operation.
    """
    parts = operation.split(".")
    groups = range(max(1, len(parts) - 1), 0, -1)
    return (operation, *(f"{'.'.join(parts[:length])}.*" for length in groups), "*")


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. `route` is its path, with "{id}" for a response's id.

    `needs_input` says that its body must have an input. `may_be_missing` says that some upstreams do not offer it, and
    may answer 404, 405 or 501 in any form. `makes_response` says that its response can be named later. `summarises`
    says that it compacts a conversation. If the gateway keeps the state, it does that by a call of CREATE.
    `counts_input` says that it counts the tokens of an input. If the gateway keeps the state, it counts them itself.
    `kind` is its name in OpenTelemetry (semantic conventions, gen_ai.operation.name), or "" if there is none.
    `bounds_output` says that its body may bound the output, if its dialect has a field for that. `names` are those that
    stand for it in a list (`names_of`). `grants` has the same names, one per line.
    """

    name: str
    method: str
    route: str
    charge: Charge
    dialect: Dialect
    needs_input: bool = False
    may_be_missing: bool = False
    makes_response: bool = False
    summarises: bool = False
    counts_input: bool = False
    kind: str = ""
    bounds_output: bool = True
    names: frozenset[str] = field(init=False)
    grants: str = field(init=False)

    def __post_init__(self) -> None:
        """Joins the names once, because each request sends them to the store."""
        names = names_of(self.name)
        object.__setattr__(self, "names", frozenset(names))
        object.__setattr__(self, "grants", "\n".join(names))

    @property
    def begins_turn(self) -> bool:
        """Whether it continues earlier turns, if the gateway keeps the state."""
        return self.makes_response or self.summarises or self.counts_input

    @property
    def span(self) -> str:
        """Its name in traces."""
        return self.kind or self.name.rpartition(".")[2]

    @property
    def by_id(self) -> bool:
        """Whether its path names an existing response."""
        return "{id}" in self.route


@dataclass(frozen=True, slots=True)
class Target:
    """A requested operation. `path` is appended to the upstream's base URL.

    `model` is the model in the path, which takes precedence over the body's, or "".
    """

    operation: Operation
    path: bytes
    response_id: str | None = None
    model: str = ""


CREATE: Final = Operation(
    "responses", "POST", PREFIX, "usage or estimate", RESPONSES, needs_input=True, makes_response=True, kind="chat"
)


def _below(
    name: str, method: str, tail: str, charge: Charge, *, summarises: bool = False, counts_input: bool = False
) -> Operation:
    """Returns a row below /v1/responses."""
    return Operation(
        f"responses.{name}",
        method,
        PREFIX + tail,
        charge,
        RESPONSES,
        may_be_missing=True,
        summarises=summarises,
        counts_input=counts_input,
        bounds_output=False,
    )


def _call(
    name: str, dialect: Dialect, kind: str = "", charge: Charge = "usage or estimate", *, may_be_missing: bool = False
) -> Operation:
    """Returns any other row."""
    path = f"{_VERSION}/{name.replace('.', '/')}"
    return Operation(name, "POST", path, charge, dialect, may_be_missing=may_be_missing, kind=kind)


OPERATIONS: Final = (
    CREATE,
    _below("compact", "POST", "/compact", "usage or estimate", summarises=True),
    _below("input_tokens", "POST", "/input_tokens", "nothing", counts_input=True),
    _below("retrieve", "GET", "/{id}", "usage"),
    _below("delete", "DELETE", "/{id}", "nothing"),
    _below("cancel", "POST", "/{id}/cancel", "usage"),
    _below("input_items", "GET", "/{id}/input_items", "nothing"),
    _call("chat.completions", CHAT, kind="chat"),
    _call("completions", COMPLETIONS, kind="text_completion"),
    _call("embeddings", EMBEDDINGS, kind="embeddings"),
    _call("messages", MESSAGES, kind="chat"),
    _call("messages.count_tokens", COUNT_TOKENS, charge="free", may_be_missing=True),
    _call("images.generations", IMAGES),
    _call("images.edits", IMAGES),
    _call("images.variations", IMAGES),
    _call("audio.speech", SPEECH),
    _call("audio.transcriptions", TRANSCRIPTION),
    _call("audio.translations", TRANSCRIPTION),
    _call("moderations", MODERATIONS),
    _call("rerank", RERANK),
)
CONVERSATIONS: Final = "conversations"
"""The name of the calls below /v1/conversations, which the gateway answers itself if it keeps the state."""
KNOWN_NAMES: Final = frozenset(
    name for one in (CONVERSATIONS, *(row.name for row in OPERATIONS)) for name in names_of(one)
)
"""The names that are valid in a list of operations."""
_METHODS: Final = tuple(sorted({operation.method for operation in OPERATIONS}))
_BY_ID: Final = tuple(operation for operation in OPERATIONS if operation.by_id)
_TARGETS: Final[Mapping[tuple[str, str], Target]] = MappingProxyType(
    {
        (operation.method, operation.route): Target(operation, operation.route.removeprefix(_VERSION).encode())
        for operation in OPERATIONS
        if not operation.by_id
    }
)
CREATE_TARGET: Final = _TARGETS[CREATE.method, CREATE.route]


def is_response_id(text: str) -> bool:
    """Whether a response's id can be part of a path without being escaped."""
    return _ID.fullmatch(text) is not None and text not in _DOTS


def checked_names(names: Iterable[str]) -> tuple[str, ...]:
    """Returns a list of operations without repetitions. Raises ValueError, which lists the valid names."""
    listed = tuple(dict.fromkeys(names))
    unknown = next((name for name in listed if name not in KNOWN_NAMES), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} is no operation; there are {', '.join(sorted(KNOWN_NAMES))}")
    return listed


def permits(listed: Collection[str], operation: str) -> bool:
    """Whether a list of operations permits one. An empty list permits all."""
    return not listed or not set(names_of(operation)).isdisjoint(listed)


def methods_at(path: str) -> tuple[str, ...]:
    """Returns the methods that a path has; none if no operation is there."""
    return tuple(method for method in _METHODS if find(method, path) is not None)


def find(method: str, path: str) -> Target | None:
    """Returns the operation at a path, or None if there is none, so that the request is not for the request handler."""
    target = _TARGETS.get((method, path))
    if target is not None or not path.startswith(PREFIX):
        return target
    for operation in _BY_ID:
        head, _, rest = operation.route.partition("{id}")
        response_id = path[len(head) : len(path) - len(rest)]
        if operation.method == method and path.startswith(head) and path.endswith(rest) and is_response_id(response_id):
            return Target(operation, path.removeprefix(_VERSION).encode(), response_id)
    return None
