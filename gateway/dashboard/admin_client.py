"""The client of the admin API, called in-process as the admin who is signed in.

Pages therefore use the API's access table, bounds, audit log and numbers. `forward` passes a whole request on, for the
live stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import httpx
from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.accounts.admin_keys import Admin
from gateway.accounts.sessions import SIGNED_IN

_BASE: Final = "http://inside/admin/v1"
_SENT_BEFORE: Final = (
    "This form was sent before with other content, and that change was made. To make this change as well, send it now."
)
_AT_ONCE: Final = 4
"""How many calls a page makes in parallel. The API bounds them for each admin key."""
_REQUEST_ID_FIELD: Final = "gateway."  # what the application stores in a scope: the request's id
_CONNECTION: Final = ("type", "asgi", "http_version", "scheme", "client", "server", "state")
_PASSED_ON: Final = frozenset({b"host", b"accept", b"last-event-id"})


class AdminApiError(Exception):
    """The admin API refused. `code` and `param` are those of its error body."""

    def __init__(self, status: int, code: str, message: str, param: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param


class AdminClient:
    """The admin API as one admin sees it. Without an admin, `key` must be given."""

    def __init__(self, request: Request, admin: Admin | None) -> None:
        self._request = request
        self._admin = admin
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def get(self, path: str, **query: str | int | None) -> dict[str, Any]:
        """Reads an object. Raises AdminApiError."""
        given = {name: value for name, value in query.items() if value is not None}
        return await self._send("GET", path, query=given)

    async def change(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        idempotency_key: str | None = None,
        version: str | None = None,
    ) -> dict[str, Any]:
        """Sends a change. Raises AdminApiError.

        With an `idempotency_key`, a repeat changes nothing. `version` is the version that the form showed.
        """
        headers = {"idempotency-key": idempotency_key, "if-match": version}
        given = {name: value.encode() for name, value in headers.items() if value is not None}
        return await self._send(method, path, body=body, headers=given)

    async def whoami(self, key: str) -> dict[str, Any]:
        """Returns the owner of an admin key. Raises AdminApiError."""
        return await self._send("GET", "/whoami", headers={"authorization": b"Bearer " + key.encode()})

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        transport = httpx.ASGITransport(self._signed_in)
        async with self._turns, httpx.AsyncClient(transport=transport, trust_env=False) as client:
            answer = await client.request(
                method,
                _BASE + path,
                params=query,
                json=body,
                headers=[(name.encode(), value) for name, value in (headers or {}).items()],
            )
        answer_body: dict[str, Any] = answer.json()
        if answer.is_error:
            error = answer_body["error"]
            code = str(error["code"])
            # the person has gone back in the browser and changed a form that was already sent
            if code == "idempotency_mismatch":
                raise AdminApiError(answer.status_code, code, _SENT_BEFORE)
            raise AdminApiError(answer.status_code, code, error["message"], error["param"])
        return answer_body

    async def forward(self, path: str, receive: Receive, send: Send) -> None:
        """Passes this request on to a path of the API, with its query and its Last-Event-ID."""
        outer = self._request.scope
        scope = {name: outer[name] for name in _CONNECTION if name in outer}
        scope |= {
            "method": "GET",
            "path": f"/admin/v1{path}",
            "raw_path": f"/admin/v1{path}".encode(),
            "root_path": "",
            "query_string": outer["query_string"],
            "headers": [pair for pair in outer["headers"] if pair[0] in _PASSED_ON],
        }
        await self._signed_in(scope, receive, send)

    async def _signed_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = {name: value for name, value in self._request.scope.items() if name.startswith(_REQUEST_ID_FIELD)}
        from_whom = [pair for pair in self._request.scope["headers"] if pair[0] == b"x-forwarded-for"]
        inner = {
            **scope,
            **ours,
            "client": self._request.scope.get("client"),  # wrong keys count against the browser's address
            "headers": [*scope["headers"], *from_whom],
            SIGNED_IN: self._admin,
        }
        app: ASGIApp = self._request.app
        await app(inner, receive, send)
