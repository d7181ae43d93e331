"""What may be asked under /v1/responses, as data. Pure.

| operation     | request                                    | goes to              | is charged                    |
|---------------|--------------------------------------------|----------------------|-------------------------------|
| create        | POST /v1/responses                         | the model's route    | its usage, else an estimate   |
| compact       | POST /v1/responses/compact                 | the model's route    | its usage, else an estimate   |
| input_tokens  | POST /v1/responses/input_tokens            | the model's route    | nothing                       |
| retrieve      | GET /v1/responses/{id}                     | who made the response| usage, once for each response |
| delete        | DELETE /v1/responses/{id}                  | who made the response| nothing                       |
| cancel        | POST /v1/responses/{id}/cancel             | who made the response| usage, once for each response |
| input_items   | GET /v1/responses/{id}/input_items         | who made the response| nothing                       |

Only create makes a response that the gateway remembers. What an upstream does not offer is its own 404, passed on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

PREFIX: Final = "/v1/responses"
_ID: Final = re.compile(r"[A-Za-z0-9_\-.~:=+]{1,512}")
_DOTS: Final = frozenset({".", ".."})

Charge = Literal["usage or estimate", "usage", "nothing"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. `tail`: the path behind PREFIX, "{id}" for a response's id. `needs_input`: its body must have one."""

    name: str
    method: str
    tail: str
    charge: Charge
    needs_input: bool = False

    @property
    def route(self) -> str:
        """Its path's pattern, for metrics."""
        return PREFIX + self.tail

    @property
    def by_id(self) -> bool:
        """Whether it is about a response that exists."""
        return "{id}" in self.tail


@dataclass(frozen=True, slots=True)
class Target:
    """An operation as it was asked for. `path` goes to the upstream, behind its base URL."""

    operation: Operation
    path: bytes
    response_id: str | None = None


CREATE: Final = Operation("create", "POST", "", "usage or estimate", needs_input=True)
OPERATIONS: Final = (
    CREATE,
    Operation("compact", "POST", "/compact", "usage or estimate"),
    Operation("input_tokens", "POST", "/input_tokens", "nothing"),
    Operation("retrieve", "GET", "/{id}", "usage"),
    Operation("delete", "DELETE", "/{id}", "nothing"),
    Operation("cancel", "POST", "/{id}/cancel", "usage"),
    Operation("input_items", "GET", "/{id}/input_items", "nothing"),
)
_CREATE_TARGET: Final = Target(CREATE, b"/responses")


def is_response_id(text: str) -> bool:
    """Whether a response's id can stand in a path as it is."""
    return _ID.fullmatch(text) is not None and text not in _DOTS


def find(method: str, path: str) -> Target | None:
    """The operation that a request asks for; None: not one of these, and not for the request line."""
    if not path.startswith(PREFIX):
        return None
    tail = path[len(PREFIX) :]
    if not tail:
        return _CREATE_TARGET if method == CREATE.method else None
    for operation in OPERATIONS:
        if operation.method != method:
            continue
        if operation.tail == tail:
            return Target(operation, b"/responses" + tail.encode())
        head, found, rest = operation.tail.partition("{id}")
        response_id = tail[len(head) : len(tail) - len(rest)]
        if found and tail.startswith(head) and tail.endswith(rest) and is_response_id(response_id):
            return Target(operation, b"/responses" + tail.encode(), response_id)
    return None
