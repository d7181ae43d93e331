"""The request log: one structured line per finished request, and the log of state changes."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Final, TextIO

import orjson
import structlog

from gateway.observability.request_record import RequestRecord


class RequestLog:
    """Writes the log lines of requests, as JSON or for people. Lines of one turn of the event loop go out in one write.

    Mutable: the number of lines, the last time stamp, the lines of this turn.
    """

    def __init__(self, stream: TextIO, *, human: bool, enabled: bool) -> None:
        self._stream = stream
        self._human = human
        self._enabled = enabled
        self.requests = 0
        self._second, self._stamp = 0, ""
        self._lines: list[str] = []

    def write(self, record: RequestRecord) -> None:
        """Writes one line for one request. It must be called inside the event loop."""
        self.requests += 1
        if not self._enabled:
            return
        second = int(time.time())
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = self._stamp
        if self._human:
            words = " ".join(f"{name}={value}" for name, value in record.line().items() if name not in _HIDDEN)
            line = f"{stamp}Z {record.method} {record.path} {record.status} {words}\n"
        else:
            fields = record.line(stamp + "Z")
            line = orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE).decode()
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines))
        self._stream.flush()


_HIDDEN: Final = frozenset(
    {"timestamp", "level", "event", "method", "path", "status", "stream", "state", "bytes_in", "bytes_out"}
)
_LEVELS: Final = ("debug", "info", "warning", "error")


def configure_logging(format_: str, level: str, stream: TextIO = sys.stderr) -> RequestLog:
    """Configures structlog for changes of state, and returns the request log. `format_` is auto, json or text."""
    human = format_ == "text" or (format_ == "auto" and stream.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )
    return RequestLog(stream, human=human, enabled=_LEVELS.index(level) <= _LEVELS.index("info"))
