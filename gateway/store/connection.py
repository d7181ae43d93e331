"""One connection to one node of the store, from its opening to its end.

    send(...)  -> buffer -> one write per turn of the event loop -> store -> replies, in order -> futures

    open      accepts calls; becomes retired when an error reply says that the node cannot serve
    retired   accepts no new calls and waits for the replies to earlier ones; then it is closed
    closed    every pending call has failed; reached directly by a lost connection, a missed deadline, malformed RESP or
              close(); a connection is never reopened

A call costs a future, a small object and its share of a write, but no task and no timer. All calls have the same
timeout and are answered in order, so the oldest call's deadline is the connection's deadline, which one timer watches.
A missed deadline ends the connection, because a late reply in RESP cannot be told from the next reply. Store
reconnects, because it knows which node is the primary by then.
"""

import asyncio
import math
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, cast

import hiredis

from gateway.concurrency.deadline import Deadline
from gateway.store.errors import (
    Redirect,
    StoreError,
    StoreUnavailable,
    is_fault_of_node,
    parse_redirect,
    reply_exception,
)
from gateway.store.script import Script
from gateway.store.url import Address

Word = str | bytes | int
# hiredis's type stub expects a tuple of one element.
pack: Final = cast("Callable[[tuple[Word, ...]], bytes]", hiredis.pack_command)

_ASKING: Final = pack((b"ASKING",))

# How much longer replies are awaited after a missed deadline: one more turn of the event loop. See `_on_deadline`.
_TIMER_GRACE_S: Final = 0.002


def pack_large(words: tuple[Word, ...]) -> bytes:
    """Packs a command with megabytes of data. `pack` would copy them several times, which blocks the event loop."""
    pieces = [b"*%d\r\n" % len(words)]
    for word in words:
        data = word if isinstance(word, bytes) else str(word).encode()
        pieces += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(pieces)


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """The settings of all connections to a store. `db` is 0 in a cluster, which has only one database."""

    timeout_s: float
    connect_timeout_s: float
    max_pending: int
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = None
    client_name: str = "gateway"


class Call:
    """A command in flight.

    Mutable: its deadline starts when it is written, and NOSCRIPT, MOVED or ASK make it be sent again.
    """

    __slots__ = ("asking", "deadline", "future", "packed", "redirected", "reloaded", "script")

    def __init__(self, packed: bytes, future: asyncio.Future[Any] | None, script: Script | None = None) -> None:
        self.packed = packed
        self.future = future  # None if nobody waits for the reply: `post`, ASKING, SCRIPT LOAD
        self.script = script
        self.deadline = math.inf
        self.asking = False
        self.redirected = False
        self.reloaded = False

    def fail(self, fault: Exception) -> None:
        """Ends the call with `fault`, unless its caller was cancelled."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(fault)


class StoreConnection(asyncio.Protocol):
    """A RESP2 connection; made by `open_connection`.

    `on_down(connection, fault)` is called once, when the connection stops accepting calls.
    `on_redirect(connection, call, redirect)` takes over a call that was answered with MOVED or ASK, at most once per
    call.
    """

    def __init__(self, address: Address, settings: ConnectionSettings, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self.fault: StoreUnavailable | None = None  # why it accepts no more calls
        self.on_down: Callable[[StoreConnection, StoreUnavailable], None] | None = None
        self.on_redirect: Callable[[StoreConnection, Call, Redirect], None] | None = None
        self._settings = settings
        self._loop = loop
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._pending: deque[Call] = deque()  # oldest first; calls that are not written yet come last
        self._unwritten: list[Call] = []
        self._deadline = Deadline(loop, self._on_deadline)
        self._graced: Call | None = None  # the oldest call, if it was given grace
        self._clock_ahead_ms = 0.0  # difference to the event loop's clock, measured before the connection serves
        # sha -> None while its SCRIPT LOAD is in flight, or why that failed
        self._loads: dict[str, Exception | None] = {}

    def send(self, packed: bytes, script: Script | None = None) -> asyncio.Future[Any]:
        """Queues a packed command. It fails at once if the connection is down or has `max_pending` calls in flight.

        The future's result is the reply as hiredis parses it: bytes, int, list, None.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.fault is not None:
            future.set_exception(self.fault.copy())
        elif len(self._pending) >= self._settings.max_pending:
            detail = f"{len(self._pending)} calls are waiting for {self.address}"
            future.set_exception(StoreUnavailable("overload", detail))
        else:
            self._put(Call(packed, future, script))
        return future

    def run(self, *command: Word) -> asyncio.Future[Any]:
        """Packs a command from its words and sends it."""
        return self.send(pack(command))

    def post(self, packed: bytes) -> None:
        """Writes a packed command now, together with those that wait. Its reply or failure is ignored."""
        if self.fault is None and len(self._pending) < self._settings.max_pending:
            self._put(Call(packed, None))
            self._flush()

    def forward(self, call: Call, *, asking: bool) -> None:
        """Sends a call that another node redirected here.

        `asking` sends ASKING before it. A cancelled call is dropped.
        """
        if call.future is not None and call.future.done():
            return
        if self.fault is not None:
            call.fail(self.fault.copy())
            return
        self._resend(call, asking=asking)

    def run_by_ms(self, within_s: float | None = None) -> int:
        """Returns the deadline for a call that is sent now, in ms of the server's clock.

        By default it is the time until which the reply is awaited.
        """
        within_s = self._settings.timeout_s if within_s is None else within_s
        return int(self._loop.time() * 1000 + self._clock_ahead_ms + within_s * 1000)

    def note_clock(self, server_ms: int) -> None:
        """Notes the server's time. It is a moment old, so that the estimate is never ahead of the server's clock."""
        self._clock_ahead_ms = server_ms - self._loop.time() * 1000

    async def measure_clock(self) -> None:
        """Asks the server for its time. Raises StoreUnavailable or StoreError."""
        seconds, microseconds = await self.run("TIME")
        self.note_clock(int(seconds) * 1000 + int(microseconds) // 1000)

    def retire(self, fault: StoreUnavailable) -> None:
        """Accepts no more calls. The connection is closed when the calls in flight are answered."""
        if self.fault is None:
            self.fault = fault
            if self.on_down is not None:
                self.on_down(self, fault)
        if not self._pending and self._transport is not None:
            self._transport.close()

    def close(self, fault: StoreUnavailable | None = None) -> None:
        """Closes the connection now. Calls in flight fail, with `maybe_applied` if they were written."""
        fault = fault or StoreUnavailable("closed")
        pending, written = self._pending, len(self._pending) - len(self._unwritten)
        self._pending = deque()
        self._unwritten = []
        self._deadline.close()
        self.retire(fault)
        if self._transport is not None:
            self._transport.abort()
        for position, call in enumerate(pending):
            call.fail(fault.copy(maybe_applied=position < written))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stores the transport."""
        # No isinstance check: uvloop's transports do not derive from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fails all calls in flight."""
        self.close(StoreUnavailable("lost", f"{self.address}: {exc or 'closed by the store'}"))

    def data_received(self, data: bytes) -> None:
        """Resolves the futures of complete replies."""
        reader, pending = self._reader, self._pending
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                # closed meanwhile, or an unsolicited reply such as "-ERR max number of clients reached"
                if not pending:
                    self.close(StoreUnavailable("lost", f"{self.address}: {reply!s:.200}"))
                    return
                call = pending.popleft()
                if reply.__class__ is hiredis.ReplyError:
                    self._refused(call, str(reply))
                elif call.future is None:
                    if call.script is not None:
                        self._loads.pop(call.script.sha, None)
                elif not call.future.done():
                    call.future.set_result(reply)
        except hiredis.ProtocolError as exc:
            self.close(StoreUnavailable("protocol", f"{self.address}: {exc}"))
            return
        if not pending and self.fault is not None and self._transport is not None:
            self._transport.close()

    # writing

    def _put(self, call: Call) -> None:
        if not self._unwritten:
            self._loop.call_soon(self._flush)
        self._unwritten.append(call)
        self._pending.append(call)

    def _flush(self) -> None:
        calls = self._unwritten
        if not calls or self._transport is None:
            return
        self._unwritten = []
        deadline = self._loop.time() + self._settings.timeout_s
        for call in calls:
            call.deadline = deadline
        if not self._deadline.is_set:
            self._deadline.set_at(deadline)
        self._transport.write(b"".join([call.packed for call in calls]))

    def _on_deadline(self) -> None:
        if not self._pending:
            return
        deadline = self._pending[0].deadline
        if deadline == math.inf:  # not written yet: `_flush` sets the deadline
            return
        now = self._loop.time()
        if now < deadline:
            self._deadline.set_at(deadline)
        elif self._graced is not self._pending[0]:
            # If this process itself was suspended, the replies are waiting in the socket, because uvloop runs timers
            # before it reads.
            self._graced = self._pending[0]
            self._deadline.set_at(now + _TIMER_GRACE_S)
        else:
            detail = f"{self.address}: no reply within {self._settings.timeout_s:g} s"
            self.close(StoreUnavailable("timeout", detail))

    # error replies

    def _refused(self, call: Call, message: str) -> None:
        script = call.script
        if call.future is None:  # if ASKING fails, so does the call after it
            if script is not None:
                self._loads[script.sha] = reply_exception(message)
            return
        fault: Exception = reply_exception(message)
        if call.future.done():
            # its caller was cancelled; a repeat would overtake the command that the caller has sent since to undo it
            pass
        elif script is not None and message.startswith("NOSCRIPT"):
            if not call.reloaded:
                self._reload(call, script)
                return
            fault = _copy_of_fault(self._loads.get(script.sha)) or fault
        elif not call.redirected and self.on_redirect is not None and (redirect := parse_redirect(message)):
            call.redirected = True
            self.on_redirect(self, call, redirect)
            return
        call.fail(fault)
        if isinstance(fault, StoreUnavailable) and is_fault_of_node(fault.reason):
            self.retire(fault.copy())

    def _reload(self, call: Call, script: Script) -> None:
        call.reloaded = True
        # otherwise a SCRIPT LOAD is in flight ahead of what is sent now
        if self._loads.get(script.sha, script) is not None:
            self._loads[script.sha] = None
            self._put(Call(pack((b"SCRIPT", b"LOAD", script.source)), None, script))
        self._resend(call, asking=call.asking)

    def _resend(self, call: Call, *, asking: bool) -> None:
        call.asking = asking
        if asking:
            self._put(Call(_ASKING, None))
        self._put(call)


def _copy_of_fault(fault: Exception | None) -> Exception | None:
    """Returns a new exception with the same content, for one more caller."""
    if isinstance(fault, StoreUnavailable):
        return fault.copy()
    return None if fault is None else StoreError(str(fault))


async def open_connection(address: Address, settings: ConnectionSettings) -> StoreConnection:
    """Connects and sends AUTH, CLIENT SETNAME and SELECT as configured.

    Raises StoreUnavailable (unreachable, slow, full) or StoreError (wrong credentials, no such database).
    """
    loop = asyncio.get_running_loop()

    def protocol() -> StoreConnection:
        return StoreConnection(address, settings, loop)

    try:
        async with asyncio.timeout(settings.connect_timeout_s):
            if address.path:
                _, connection = await loop.create_unix_connection(protocol, address.path)
            else:
                _, connection = await loop.create_connection(protocol, address.host, address.port, ssl=settings.tls)
    except TimeoutError:
        detail = f"{address}: no connection within {settings.connect_timeout_s:g} s"
        raise StoreUnavailable("connect", detail) from None
    except (OSError, UnicodeError) as exc:  # UnicodeError: the text cannot be a host name
        raise StoreUnavailable("connect", f"{address}: {exc}") from exc
    greeting: list[asyncio.Future[Any]] = []
    if settings.password is not None:
        user = () if settings.username is None else (settings.username,)
        greeting.append(connection.run("AUTH", *user, settings.password))
    greeting.append(connection.run("CLIENT", "SETNAME", settings.client_name))
    if settings.db:
        greeting.append(connection.run("SELECT", settings.db))
    try:
        await asyncio.gather(*greeting)
    except BaseException:
        connection.close()
        raise
    return connection
