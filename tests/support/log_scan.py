"""Scans everything that gateways log in tests for secrets. A test that makes a gateway log a key fails.

    ScannedLog(stream, quiet=True)    a stream for a gateway's log; `leaks`: the lines that contain a secret
    leaks(text, secrets)             the same for a text, such as the output of a process

A secret is what a test used as one, and whatever has the form of an API key.
"""

import io
import re
import sys
from collections.abc import Collection, Mapping
from typing import Final, TextIO

API_KEY: Final = re.compile(r"sk-gw-[0-9A-Za-z]{10}-[0-9A-Za-z]{10}-[0-9A-Za-z]{43}")
SECRET_NAME: Final = re.compile(r"KEY|TOKEN|PASSWORD|SECRET")
_SHORTEST: Final = 8  # "key" is also a word


def leaks(text: str, secrets: Collection[str]) -> list[str]:
    """Returns the lines of a log that contain a secret."""
    return [line for line in text.splitlines() if API_KEY.search(line) or any(secret in line for secret in secrets)]


def secrets_of(environ: Mapping[str, str]) -> set[str]:
    """Returns the secrets in an environment, by the names of its variables. References are not secrets."""
    return {
        value
        for name, value in environ.items()
        if SECRET_NAME.search(name) and len(value) >= _SHORTEST and not value.startswith(("env:", "file:"))
    }


class ScannedLog(io.TextIOBase):
    """Passes on what is written to it. `quiet` drops lines of requests and of successes."""

    def __init__(self, stream: TextIO, secrets: Collection[str], *, quiet: bool) -> None:
        super().__init__()
        self._stream = stream
        self._secrets = set(secrets)
        self._quiet = quiet
        self.lines = 0
        self.leaks: list[str] = []

    def add(self, api_key: str) -> None:
        """Registers a new key. Its secret part alone must not be logged either."""
        self._secrets |= {api_key, api_key.rpartition("-")[2]}

    def write(self, text: str) -> int:
        self.leaks += leaks(text, self._secrets)
        lines = text.splitlines(keepends=True)
        self.lines += len(lines)
        passed = [line for line in lines if not (self._quiet and re.search(r'"level": ?"(info|debug)"', line))]
        self._open_stream().write("".join(passed))
        return len(text)

    def flush(self) -> None:
        self._open_stream().flush()

    def isatty(self) -> bool:
        return self._open_stream().isatty()

    def _open_stream(self) -> TextIO:
        """The stream, or standard error where the test whose capture it was has ended: logging outlives a gateway."""
        if self._stream.closed and sys.__stderr__ is not None:
            return sys.__stderr__
        return self._stream
