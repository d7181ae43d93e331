"""The request log: one structured line per finished request. Also the log of changes of state.

Messages of libraries go the same way. Python's default handler would write them to standard error and wait for it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any, Final, Protocol, TextIO, cast

import structlog

from gateway.observability.log_fields import log_fields
from gateway.observability.log_writer import MAX_DRAIN_S, LogWriter
from gateway.observability.request_record import RequestRecord
from gateway.protocol.lenient_json import dumps


class LogOptions(Protocol):
    """What is logged and how. `config.sections.LogSettings` has it."""

    @property
    def format(self) -> str:
        """auto, json or text."""

    @property
    def level(self) -> str:
        """The lowest level that is logged."""

    @property
    def buffer_bytes(self) -> int:
        """The most bytes that wait for the reader of the log."""

    @property
    def when_full(self) -> str:
        """What happens to lines beyond that: `drop` or `wait`."""


class RequestLog:
    """Writes the log lines of requests, as JSON or for people. Lines of one turn of the event loop go out in one write.

    Mutable: the number of lines, the last time stamp, the lines of this turn.
    """

    def __init__(self, stream: LogWriter, *, for_people: bool, enabled: bool) -> None:
        self._stream = stream
        self._for_people = for_people
        self._enabled = enabled
        self.requests = 0
        self._second, self._stamp = 0, ""
        self._lines: list[str] = []

    @property
    def dropped(self) -> int:
        """The number of lines, of requests and of changes of state, that could not be written."""
        return self._stream.dropped

    def write(self, record: RequestRecord) -> None:
        """Writes one line for one request. It must be called inside the event loop."""
        self.requests += 1
        if not self._enabled:
            return
        second = int(time.time())
        if second != self._second:
            self._second, self._stamp = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        stamp = self._stamp
        if self._for_people:
            shown = {name: value for name, value in log_fields(record).items() if name not in _NOT_SHOWN_TO_PEOPLE}
            words = " ".join(f"{name}={value}" for name, value in shown.items())
            line = f"{_visible(f'{stamp}Z {record.method} {record.path} {record.status} {words}')}\n"
        else:
            line = dumps(log_fields(record, stamp + "Z")).decode() + "\n"
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._flush)
        self._lines.append(line)

    def drain(self) -> None:
        """Waits a moment at the end for the log to be written. It must not be called on the event loop."""
        self._stream.drain(MAX_DRAIN_S)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        self._stream.write("".join(lines))
        self._stream.flush()


def _visible(text: str) -> str:
    """Without what would begin another line, or command a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


_NOT_SHOWN_TO_PEOPLE: Final = frozenset(
    {"timestamp", "level", "event", "method", "path", "status", "stream", "state", "bytes_in", "bytes_out"}
)
_LEVELS: Final = ("debug", "info", "warning", "error")


class _Libraries(logging.Handler):
    """Passes on what libraries log with Python's own `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one message."""
        log = structlog.get_logger(record.name)
        write = log.error if record.levelno >= logging.ERROR else log.warning
        write("library", message=record.getMessage(), exc_info=record.exc_info)


def configure_logging(options: LogOptions, stream: TextIO = sys.stderr, *, level: str | None = None) -> RequestLog:
    """Configures what belongs to the whole process: structlog for changes of state, and `logging` for libraries.

    `level` takes precedence over the option. Returns the request log, which is written to the same stream.
    """
    writer, for_people, minimum = _writer(options, stream), _is_for_people(options, stream), level or options.level
    renderer: Any = structlog.dev.ConsoleRenderer() if for_people else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(minimum),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", writer)),
        cache_logger_on_first_use=False,
    )
    logging.lastResort = _Libraries(logging.WARNING)
    return RequestLog(writer, for_people=for_people, enabled=_shows_requests(minimum))


def open_request_log(options: LogOptions, stream: TextIO = sys.stderr) -> RequestLog:
    """Opens a request log in a process whose logging is configured elsewhere."""
    enabled = _shows_requests(options.level)
    return RequestLog(_writer(options, stream), for_people=_is_for_people(options, stream), enabled=enabled)


def _writer(options: LogOptions, stream: TextIO) -> LogWriter:
    waits = options.when_full == "wait"
    return LogWriter(stream, max_bytes=options.buffer_bytes, waits=waits, on_dropped=_log_dropped)


def _is_for_people(options: LogOptions, stream: TextIO) -> bool:
    return options.format == "text" or (options.format == "auto" and stream.isatty())


def _shows_requests(level: str) -> bool:
    return _LEVELS.index(level) <= _LEVELS.index("info")


def _log_dropped(count: int) -> None:
    structlog.get_logger("gateway.log").error("log_lines_dropped", count=count)
