"""Lua scripts as values, read from the package.

A line `--@include NAME` is replaced by scripts/NAME.lua, which may have such lines too. A line `local NAME, OTHER =
1, 2` of numbers with names in capitals defines constants: the numbers are written in the place of the names. Every run
of a script would otherwise set these locals and capture them in every function that uses them, which took a tenth of an
admission's time in the store. The server identifies a script by the SHA-1 of its source.

The writes of a script that fails in the middle are not undone. Each script that writes therefore checks first whether
its user may run all of its commands (`_permission_check`). If not, it answers NOPERM with the names of the missing
ones. A line `--@reads` states that a script writes nothing, although it includes functions that could.

Checking a command takes a third of the time of running it, so that the scripts of every request check less. With a line
`--@permits HSET ZADD` before its first write, a script checks only these commands, and only there. They must include
all commands that may follow the first write. Commands before it need no check, because nothing has been written if one
of them is refused. The inspection (durability.py) checks all commands.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from types import MappingProxyType
from typing import Final

# The commands that scripts run -> whether they write.
COMMANDS: Final = MappingProxyType(
    {
        **dict.fromkeys(
            ("DEL", "HDEL", "HINCRBY", "HSET", "HSETNX", "PEXPIRE", "PEXPIREAT", "SET", "XADD", "XTRIM"), True
        ),
        **dict.fromkeys(("ZADD", "ZREM"), True),
        **dict.fromkeys(("EXISTS", "GET", "HEXISTS", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HRANDFIELD"), False),
        **dict.fromkeys(("PTTL", "TIME", "XINFO STREAM", "XRANGE", "XREVRANGE"), False),
        **dict.fromkeys(("ZRANGE", "ZRANGEBYSCORE", "ZSCORE"), False),
    }
)

_INCLUDE: Final = re.compile(r"^--@include (\w+)$", re.MULTILINE)
_NAME: Final = r"[A-Z][A-Z_]*"
_CONSTANTS: Final = re.compile(rf"^local ({_NAME}(?:, {_NAME})*) = (\d+(?:, \d+)*)(?: *--.*)?$", re.MULTILINE)
_CALL: Final = re.compile(r"redis\.call\('([A-Z]+)'(?:, '(STREAM)')?")
_READS: Final = re.compile(r"^--@reads$\n?", re.MULTILINE)
_PERMITS: Final = re.compile(r"^ *--@permits ([A-Z]+(?: [A-Z]+)*)$", re.MULTILINE)
# A name outside of strings and comments.
_WORD: Final = re.compile(rf"'(?:[^'\\\n]|\\.)*'|\"(?:[^\"\\\n]|\\.)*\"|--[^\n]*|\b{_NAME}\b")


@dataclass(frozen=True, slots=True)
class Script:
    """A script. `sha` is the SHA-1 of `source` in hexadecimal, for EVALSHA. `commands`: the commands that it runs."""

    name: str
    source: str
    sha: str
    commands: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, source: str) -> "Script":
        """Creates a script from its source."""
        sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        return cls(name, source, sha)

    @classmethod
    def load(cls, name: str) -> "Script":
        """Reads scripts/`name`.lua of this package with its includes. Raises FileNotFoundError if it does not exist."""
        return cls.from_text(name, _read(name))

    @classmethod
    def from_text(cls, name: str, text: str) -> "Script":
        """Creates a script from a text with includes and constants, such as the files of this package.

        Raises ValueError if a constant has two values.
        """
        source = _without_constants(_expand_includes(_READS.sub("", text)))
        commands = tuple(sorted({" ".join(filter(None, found)) for found in _CALL.findall(source)}))
        if _PERMITS.search(source):
            source = _PERMITS.sub(lambda line: _permission_check(line[1].split(), commands), source)
        elif any(COMMANDS.get(command, True) for command in commands) and not _READS.search(text):
            source = _permission_check(commands, commands) + source
        return replace(cls.of(name, source), commands=commands)


def _permission_check(required: Iterable[str], commands: Iterable[str]) -> str:
    """Returns a statement that ends a script whose user may not run all of the `required` commands.

    The answer names each of the script's `commands` that is not permitted. The statement is on one line, so that line
    numbers stay the same. Servers without `acl_check_cmd` are older than Redis 7.
    """
    permitted = " and ".join(f"c({_words(command)},k)" for command in required)
    named = ",".join("{" + _words(command) + "}" for command in commands)
    return (
        f"do local c,k=redis.acl_check_cmd,KEYS[1] if c and not({permitted}) then local m={{}} "
        f"for _,w in ipairs({{{named}}}) do local n=table.concat(w,' ') w[#w+1]=k "
        "if not c(unpack(w)) then m[#m+1]=n end end "
        "return redis.error_reply('NOPERM this user may not run '..table.concat(m,', ')) end end "
    )


def _words(command: str) -> str:
    return "'" + command.replace(" ", "','") + "'"


def _expand_includes(text: str) -> str:
    return _INCLUDE.sub(lambda line: _expand_includes(_read(line[1]).rstrip("\n")), text)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


def _without_constants(source: str) -> str:
    values: dict[str, str] = {}
    for line in _CONSTANTS.finditer(source):
        for name, value in zip(line[1].split(", "), line[2].split(", "), strict=True):
            if values.setdefault(name, value) != value:
                raise ValueError(f"the constant {name} is {values[name]} and {value}")
    return _WORD.sub(lambda word: values.get(word[0], word[0]), _CONSTANTS.sub("", source))
