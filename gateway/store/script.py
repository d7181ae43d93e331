"""Lua scripts as values, read from the package.

A line `--@include NAME` is replaced by scripts/NAME.lua. The server identifies a script by the SHA-1 of its source.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

_INCLUDE: Final = re.compile(r"^--@include (\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A script. `sha` is the SHA-1 of `source` in hexadecimal, which EVALSHA uses."""

    name: str
    source: str
    sha: str

    @classmethod
    def of(cls, name: str, source: str) -> "Script":
        """Creates a script from its source."""
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        return cls(name, source, sha)

    @classmethod
    def load(cls, name: str) -> "Script":
        """Reads scripts/`name`.lua of this package with its includes. Raises FileNotFoundError if it does not exist."""
        return cls.of(name, _INCLUDE.sub(lambda line: _read(line[1]).rstrip("\n"), _read(name)))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")
