"""Lua scripts as values, read from the package.

A line `--@include NAME` is replaced by scripts/NAME.lua. A line `local NAME, OTHER = 1, 2` of numbers with names in
capitals defines constants: the numbers are written in the place of the names. Every run of a script would otherwise
set these locals and capture them in every function that uses them, which took a tenth of an admission's time in the
store. The server identifies a script by the SHA-1 of its source.
"""

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

_INCLUDE: Final = re.compile(r"^--@include (\w+)$", re.MULTILINE)
_NAME: Final = r"[A-Z][A-Z_]*"
_CONSTANTS: Final = re.compile(rf"^local ({_NAME}(?:, {_NAME})*) = (\d+(?:, \d+)*)(?: *--.*)?$", re.MULTILINE)
# A name outside of strings and comments.
_WORD: Final = re.compile(rf"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|--[^\n]*|\b{_NAME}\b")


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
        return cls.written(name, _read(name))

    @classmethod
    def written(cls, name: str, text: str) -> "Script":
        """Creates a script from a text with includes and constants, as the files of this package are written.

        Raises ValueError if a constant has two values.
        """
        return cls.of(name, _without_constants(_INCLUDE.sub(lambda line: _read(line[1]).rstrip("\n"), text)))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


def _without_constants(source: str) -> str:
    values: dict[str, str] = {}
    for line in _CONSTANTS.finditer(source):
        for name, value in zip(line[1].split(", "), line[2].split(", "), strict=True):
            if values.setdefault(name, value) != value:
                raise ValueError(f"the constant {name} is {values[name]} and {value}")
    return _WORD.sub(lambda word: values.get(word[0], word[0]), _CONSTANTS.sub("", source))
