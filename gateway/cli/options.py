"""Flags that several commands share, and how they become fields of a request."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import click

from gateway.accounts.limit_names import is_limit
from gateway.cli.errors import USAGE, CliError
from gateway.cli.signatures import Group, argument, option

_DURATION: Final = re.compile(r"(\d{1,9})(s|m|h|d)?")
_SECONDS: Final = (("s", 1), ("m", 60), ("h", 3600), ("d", 86_400))
_BOUND: Final = 2**53 - 1  # the largest number that the ledger counts exactly

TeamArgument = Annotated[str, argument("A team's name or id.")]
AsJson = Annotated[bool, option("The API's JSON, for scripts.", "--json")]
Overlap = Annotated[str, option("For how long the old secrets still work: 90s, 30m, 24h, 7d.")]
EndNow = Annotated[bool, option("The old secrets end at once.", "--now")]
Models = Annotated[str | None, option('Allowed models, separated by commas: exact ids, "provider/*" or "*".')]
Operations = Annotated[
    str | None, option("Allowed operations, separated by commas: chat.completions, images.*, or * for all.")
]
ExpiresAt = Annotated[
    str | None, option("When it stops working: a day or a time, such as 2027-01-31T00:00:00Z or tomorrow.")
]
Yes = Annotated[bool, option("Do not ask for confirmation.", "--yes", "-y")]
All = Annotated[bool, option("Also what was deleted or revoked.", "--all", "-a")]
IdempotencyKey = Annotated[
    str | None, option("A name for this action: repeating it under the same name changes nothing.")
]

Rpm = Annotated[int | None, option("Requests per minute.", minimum=0, maximum=_BOUND)]
Tpm = Annotated[int | None, option("Tokens per minute.", minimum=0, maximum=_BOUND)]
Concurrency = Annotated[int | None, option("Requests at the same time.", minimum=0, maximum=_BOUND)]
MaxOutputTokens = Annotated[int | None, option("Largest max_output_tokens.", minimum=1, maximum=_BOUND)]
BudgetUsd = Annotated[str | None, option("USD per period of the team's calendar, or in total.")]
BudgetTokens = Annotated[
    int | None, option("Tokens per period of the team's calendar, or in total.", minimum=0, maximum=_BOUND)
]

Limits = Annotated[
    list[str] | None,
    option("Any limit, such as budget_usd_week=25; may be repeated.", "--limit", metavar="NAME=VALUE"),
]
Timezone = Annotated[str | None, option("Where its days, weeks, months and quarters begin, such as Asia/Kolkata.")]
Anchor = Annotated[str | None, option("A day on which its weeks, months and quarters begin, such as 2026-11-15.")]


def given(**fields: Any) -> dict[str, Any]:
    """Returns the fields that were given. The API decides about the others."""
    return {name: value for name, value in fields.items() if value is not None}


def limits(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the limits among the values of a command's flags."""
    return {name: value for name, value in values.items() if value is not None and is_limit(name)}


def listed(text: str | None) -> list[str] | None:
    """Splits a flag at its commas."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def confirm(question: str, *, yes: bool) -> None:
    """Asks for confirmation. Raises CliError if the answer is no or nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(f"{question} Confirm with --yes: there is no terminal to ask", exit_code=USAGE)
    if not click.confirm(question, default=False):
        raise CliError("nothing was changed")


_LIMITS: Final = ("limits.", "overrides.")
"""Where the API has what commands call by its name alone, as in `rpm=60`."""
_FIELDS: Final = MappingProxyType({"credits_usd": "credits", "amount_usd": "amount"})
"""Fields of the API whose option has another name."""


def as_options(message: str, field: str, root: Group, words: Sequence[str]) -> str:
    """Returns the API's message with the command's option in place of the field. `words` are the command line."""
    command: click.Command = root
    for word in words:
        if isinstance(command, Group):
            command = command.get_command(click.Context(command), word) or command
    name = next((part for part in reversed(field.split(".")) if not part.isdigit()), "")
    for parameter in command.params if name else ():
        longest_name = max(parameter.opts, key=len)
        if longest_name.startswith("-") and longest_name.lstrip("-").replace("-", "_") in (name, _FIELDS.get(name)):
            named = message.replace(f"{field}: ", f"{longest_name}: ", 1).replace(f"'{field}'", f"'{longest_name}'")
            return named if named != message else f"{longest_name}: {message}"
    return message.replace(f"{field}: ", f"{name}: ", 1) if field.startswith(_LIMITS) else message


def program() -> str:
    """Returns how to call this program from the current directory."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m gateway"
    if shutil.which("gateway") == str(called.absolute()) or not called.exists():
        return "gateway"
    return shlex.quote(os.path.relpath(called))


def word(name: str, identifier: str = "") -> str:
    """Returns a name as a word of a command line; its id instead, where the name would be taken for an option."""
    return identifier if identifier and name.startswith("-") else shlex.quote(name)


def seconds(text: str) -> int:
    """Returns a duration such as 24h in seconds. Raises CliError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise CliError(f"{text!r} is not a duration, such as 90s, 30m, 24h or 7d", exit_code=USAGE)
    return int(match[1]) * dict(_SECONDS)[match[2] or "s"]
