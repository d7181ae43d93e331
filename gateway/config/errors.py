"""What is wrong with a configuration, and where. Pure: settings.py finds it, the command line prints it.

gateway.toml: routes[0].upstreams: there is no upstream 'x'
environment GATEWAY_SERVER__PORT: server.port: Input should be less than or equal to 65535
source        path, as TOML writes it         what is wrong; never the value, which may be a secret
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
    """What is wrong, and where: `place` is the path of keys and indices, () for the whole."""

    place: Place
    message: str


class SettingsError(Exception):
    """The configuration is wrong. `problems`: one line each, with its place."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class InvalidSettings(Exception):
    """Values that are no configuration, with everything that is wrong with them."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems


def problems_of(error: ValidationError) -> Iterator[Problem]:
    """Pydantic's errors in our words."""
    details = error.errors(include_input=False, include_url=False)
    places = [detail["loc"] for detail in details]
    for detail in details:
        place, kind = detail["loc"], detail["type"]
        if kind == "too_short" and any(other[: len(place)] == place != other for other in places):
            continue  # it has entries, but wrong ones, which have lines of their own
        message = detail["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            message = "there is no such setting"
        elif kind == "string_type" and place[0] == "prices":
            message = 'a price is a decimal string in quotes, such as "1.25"'
        yield Problem(tuple(part for part in place if part != "[key]"), message)


def line(problem: Problem, where: str, environ: Mapping[str, str]) -> str:
    """The problem in one line. `where`: the file; an environment variable that gave the value takes its place."""
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
