"""Problems of a configuration, and where they are. Pure: settings.py finds them, the command line prints them.

gateway.toml: routes[0].upstreams: there is no upstream 'x'
environment GATEWAY_SERVER__PORT: server.port: Input should be less than or equal to 65535
source        path, as TOML writes it         the problem, never the value, which may be a secret
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

ENV_PREFIX: Final = "GATEWAY_"
DELIMITER: Final = "__"

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")

Place = tuple[str | int, ...]


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


def problems_of(error: ValidationError) -> Iterator[Problem]:
    """Translates pydantic's errors."""
    details = error.errors(include_input=False, include_url=False)
    places = [detail["loc"] for detail in details]
    for detail in details:
        place, kind = detail["loc"], detail["type"]
        if kind == "too_short" and any(other[: len(place)] == place != other for other in places):
            continue  # its entries are wrong, and have lines of their own
        message = detail["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            message = "there is no such setting"
        elif kind == "string_type" and place[0] == "prices":
            message = 'a price is a decimal string in quotes, such as "1.25"'
        yield Problem(tuple(part for part in place if part != "[key]"), message)


def line(problem: Problem, where: str, environ: Mapping[str, str]) -> str:
    """Returns the problem as one line. `where` is the file; an environment variable that set the value replaces it."""
    given = {name.upper() for name in environ}
    names = [str(part).upper() for part in problem.place]
    prefixes = (ENV_PREFIX + DELIMITER.join(names[:length]) for length in range(len(names), 0, -1))
    variable = next((name for name in prefixes if name in given), None)
    path = ""
    for part in problem.place:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            key = part if _BARE_KEY.fullmatch(part) else f'"{part}"'
            path += f".{key}" if path else key
    source = f"environment {variable}" if variable else where
    return ": ".join(filter(None, (source, path, problem.message)))
