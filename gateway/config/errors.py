"""Problems of a configuration, and where they are. Pure: settings.py finds them, the command line prints them.

gateway.toml:12:1: routes[0].upstreams: there is no upstream 'x'
environment GATEWAY_SERVER__PORT: server.port: must be at most 65535
source, line and column   path, as TOML writes it   the problem, never the value, which may be a secret
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import BaseModel, ValidationError

from gateway.config.messages import hint, message_of, settings_at
from gateway.config.positions import Place, Position, nearest

ENV_PREFIX: Final = "GATEWAY_"
DELIMITER: Final = "__"

_KEY: Final = "[key]"  # pydantic's marker that a key is wrong, and not its value
_FORMS: Final = frozenset({"bool", "int", "str"})

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem and its place: the path of keys and indices, or () for the whole configuration."""

    place: Place
    message: str


class SettingsError(Exception):
    """The configuration is wrong. `problems` has one line per problem, with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class InvalidSettings(Exception):
    """The values are not a valid configuration. Holds all problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


def problems_of(error: ValidationError, model: type[BaseModel]) -> Iterator[Problem]:
    """Translates pydantic's errors. Several about one value become one."""
    details = [(_place(detail["loc"]), detail) for detail in error.errors(include_input=False, include_url=False)]
    places = [place for place, _ in details]
    found: dict[Place, list[str]] = {}
    for place, detail in details:
        kind = detail["type"]
        if kind == "too_short" and any(other[: len(place)] == place != other for other in places):
            continue  # its entries are wrong, and are reported themselves
        message = message_of(detail)
        if kind == "extra_forbidden":
            message += _meant(model, place)
        elif kind == "string_type" and place[0] == "prices":
            message = 'a price is a decimal string in quotes, such as "1.25"'
        found.setdefault(place, []).append(message)
    for place, messages in found.items():
        first, *others = messages
        message = " or ".join([first, *(other.removeprefix("must be ") for other in others)])
        if place[-1:] == (_KEY,):
            yield Problem(place[:-1], f"its name {message}" if message.startswith("must be ") else message)
        else:
            yield Problem(place, message)


def _place(loc: Place) -> Place:
    """Returns a place without the name of the alternative that pydantic tried for a union."""
    return tuple(
        part for part in loc if not (isinstance(part, str) and (part in _FORMS or part.startswith("literal[")))
    )


def _meant(model: type[BaseModel], place: Place) -> str:
    name = str(place[-1])
    if near := hint(name, settings_at(model, place[:-1])):
        return near
    sections = [section for section in model.model_fields if section != place[0]]
    homes = [section for section in sections if name in settings_at(model, (section,))]
    return f"; it belongs into {' or '.join(f'[{home}]' for home in homes)}" if homes else ""


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a configuration: its name, and the positions of a file's keys."""

    name: str
    positions: Mapping[Place, Position] | None = None

    def lines(self, problems: Iterable[Problem], environ: Mapping[str, str]) -> list[str]:
        """Returns the problems as lines, in the order of the file."""
        known = self.positions or {}
        return [
            self.line(problem, environ) for problem in sorted(problems, key=lambda each: nearest(known, each.place))
        ]

    def line(self, problem: Problem, environ: Mapping[str, str]) -> str:
        """Returns the problem as one line. An environment variable that set the value takes the file's place."""
        given = {name.upper() for name in environ}
        names = [str(part).upper() for part in problem.place]
        prefixes = (ENV_PREFIX + DELIMITER.join(names[:length]) for length in range(len(names), 0, -1))
        variable = next((name for name in prefixes if name in given), None)
        where = f"environment {variable}" if variable else self.at(problem.place)
        return ": ".join(filter(None, (where, path_of(problem.place), problem.message)))

    def at(self, place: Place) -> str:
        """Returns the file with line and column of a place."""
        return f"{self.name}:{nearest(self.positions, place)}" if self.positions is not None else self.name


def path_of(place: Place) -> str:
    """Returns a place as TOML writes it."""
    path = ""
    for part in place:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else f'"{part}"'
            path += f".{key}" if path else key
    return path
