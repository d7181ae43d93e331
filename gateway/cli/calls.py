"""HTTP calls with the standard library, because importing an HTTP client takes longer than most commands run.

    with Calls("https://gateway.example", {"authorization": "Bearer ..."}) as calls:
        answer = calls.request("GET", "/admin/v1/teams", {"limit": "10"})     answer.status, answer.json()
        with calls.opened("GET", "/admin/v1/events") as stream:               stream.status, stream.lines()

One connection is kept as long as the gateway keeps it. Redirects are not followed. The environment's proxy is used,
except for this machine. Certificates are checked against the authorities that the system trusts.
"""

from __future__ import annotations

import base64
import contextlib
import json
import select
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPResponse, HTTPSConnection
from socket import socket
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import SplitResult, unquote, urlencode, urlsplit

from gateway.config.environment_proxy import environment_proxy

TIMEOUT_S: Final = 30.0
_MAX_SUCCESS_STATUS: Final = 299
_PIECE: Final = 65_536


class UrlError(ValueError):
    """The URL, or that of the proxy, cannot be called."""


class NoConnectionError(Exception):
    """Nothing was sent, because the connection was not accepted."""


class NoAnswerError(Exception):
    """The request may have arrived, but no complete answer came."""


class Answer(NamedTuple):
    """A complete answer."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return self.status <= _MAX_SUCCESS_STATUS

    def json(self) -> Any:
        """Returns the body's JSON, or None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Stream:
    """An answer whose body arrives in pieces."""

    def __init__(self, answer: HTTPResponse) -> None:
        self._answer = answer
        self.status = answer.status
        self.headers = answer.headers

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return self.status <= _MAX_SUCCESS_STATUS

    def pieces(self) -> Iterator[bytes]:
        """Yields the body as it arrives. Raises NoAnswerError."""
        while True:
            with _translated_errors():
                piece = self._answer.read1(_PIECE)
            if not piece:
                return
            yield piece

    def whole(self) -> Answer:
        """Reads the rest. Raises NoAnswerError."""
        with _translated_errors():
            return Answer(self.status, self.headers, self._answer.read())

    def lines(self) -> Iterator[str]:
        """Yields lines without their ends. Raises NoAnswerError."""
        while True:
            with _translated_errors():
                line = self._answer.readline()
            if not line:
                return
            yield line.decode("utf-8", "replace").rstrip("\r\n")


class Calls:
    """Calls one server, one call after the other. Mutable: its connection.

    `timeout_s` bounds the wait for each next part of an answer; None: no bound. Raises UrlError.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float | None = TIMEOUT_S) -> None:
        self._url = _parts(url, ("http", "https"))
        self._headers = headers
        self._timeout_s = timeout_s
        self._prefix = self._url.path.rstrip("/")
        self._connection, self._target = self._new_connection()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Returns the answer to a request; `body` becomes JSON. Raises NoConnectionError or NoAnswerError."""
        with self.opened(method, path, params, body=body, headers=headers) as stream:
            return stream.whole()

    @contextlib.contextmanager
    def opened(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Iterator[Stream]:
        """Yields an answer once its head has arrived. Raises NoConnectionError or NoAnswerError."""
        sent = {**self._headers, **(headers or {})}
        if body is not None:
            sent["content-type"] = "application/json"
        query = f"?{urlencode(params)}" if params else ""
        self._connect()
        with _translated_errors():
            text = None if body is None else json.dumps(body).encode()
            self._connection.request(method, f"{self._target}{self._prefix}{path}{query}", text, sent)
            answer = self._connection.getresponse()
        try:
            yield Stream(answer)
        finally:
            if not answer.isclosed():  # the rest would be read as the next answer
                self._connection.close()

    def _connect(self) -> None:
        """Connects, unless there is a connection that the server has not ended."""
        is_open: socket | None = self._connection.sock
        if is_open is not None and not select.select([is_open], [], [], 0)[0]:
            return
        self._connection.close()
        try:
            self._connection.connect()
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one of a host
            raise NoConnectionError(str(error) or type(error).__name__) from None
        self._connection.sock.settimeout(self._timeout_s)

    def _new_connection(self) -> tuple[HTTPConnection, str]:
        """Returns a connection and the prefix of each path: a proxy needs the complete URL."""
        host, is_tls = self._url.hostname or "", self._url.scheme == "https"
        kind = HTTPSConnection if is_tls else HTTPConnection
        port = self._url.port or kind.default_port
        proxy = environment_proxy(self._url.geturl())
        if proxy is None:
            return kind(host, port, timeout=TIMEOUT_S), ""
        through = _parts(proxy, ("http",))
        connection = kind(through.hostname or "", through.port or 80, timeout=TIMEOUT_S)
        credentials = {}
        if through.username is not None:
            pair = f"{unquote(through.username)}:{unquote(through.password or '')}".encode()
            credentials["Proxy-Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        if is_tls:
            connection.set_tunnel(host, port, credentials)
            return connection, ""
        self._headers = {**self._headers, **credentials}
        return connection, f"http://{self._url.netloc.rpartition('@')[2]}"


def _parts(url: str, schemes: tuple[str, ...]) -> SplitResult:
    """Returns a URL's parts. Raises UrlError."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in schemes and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise UrlError(str(error)) from None
    if not known:
        raise UrlError(f"{url!r} does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and a host")
    return parts


@contextlib.contextmanager
def _translated_errors() -> Iterator[None]:
    """Raises NoAnswerError for every fault of a connection. ValueError means a header that cannot be sent."""
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:
        raise NoAnswerError(str(error) or type(error).__name__) from None
