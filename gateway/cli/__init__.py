"""The command line. It is thin: commands call the server's packages or the admin API.

    commands         the flags of init, serve, demo, simulate and check
    init             writes a configuration to begin with
    serve, demo      run the gateway; greeting is the text of the demo, simulated runs a provider beside it
    check            checks a configuration; store_check checks its store
    try_prompt       sends one request through the gateway: GATEWAY_API_KEY
    doctor           examines a staging gateway with a team and requests of its own (staging_gateway)
    calls            HTTP calls by the standard library
    client           the client of the admin API: GATEWAY_URL and GATEWAY_ADMIN_KEY, or --profile (profiles)
    sign_in          signs in at an identity provider
    teams, team_changes, team_credits, kept_state, keys, key_changes, key_search, limits, usage, ledger,
    archive, reconcile, recent_requests, top, upstreams, notices, config, admin_keys
                     commands that use the admin API
    prices           explains a cost (price_explain); price_import writes rows from the data of a package
                     (price_catalogue) as TOML (price_toml), and compares a file with it (price_comparison)
    signatures       turns annotated functions into commands
    options, output  shared flags; tables and JSON
    files            files that are complete or absent, and Parquet
    errors           how a command fails

Exit codes: 0 success; 1 refused or impossible, with one line on standard error that says why; 2 wrong usage.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import MappingProxyType
from typing import Final, NamedTuple

import click

from gateway.cli import commands
from gateway.cli.errors import CliError
from gateway.cli.options import as_options
from gateway.cli.signatures import Command, Group


class _Part(NamedTuple):
    """One command or group of commands: a name in a module of this package. Modules in `also` add commands to it."""

    module: str
    name: str = "app"
    also: tuple[str, ...] = ()


_PARTS: Final = MappingProxyType(
    {
        "teams": _Part("teams", also=("team_changes",)),
        "keys": _Part("keys", also=("key_changes", "key_search")),
        "credits": _Part("team_credits"),
        "state": _Part("kept_state"),
        "ledger": _Part("ledger"),
        "reconcile": _Part("reconcile", "reconcile"),
        "limits": _Part("limits"),
        "requests": _Part("recent_requests"),
        "upstreams": _Part("upstreams"),
        "notices": _Part("notices"),
        "config": _Part("config"),
        "admins": _Part("admin_keys"),
        "usage": _Part("usage", "usage"),
        "audit": _Part("admin_keys", "audit"),
        "whoami": _Part("admin_keys", "whoami"),
        "login": _Part("sign_in", "login"),
        "logout": _Part("sign_in", "logout"),
        "prices": _Part("prices", also=("price_import",)),
        "top": _Part("top", "top"),
        "try": _Part("try_prompt", "try_"),
        "doctor": _Part("doctor", "doctor"),
    }
)
"""The commands in modules of their own. The other commands are in commands.py."""


class CommandLine(Group):
    """All commands. A part is imported only when it is used, because importing all takes longer than most commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names of the commands."""
        return list(dict.fromkeys((*super().list_commands(ctx), *_PARTS)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns a command, or None if there is none of that name."""
        part = _PARTS.get(cmd_name)
        if part is not None and cmd_name not in self.commands:
            found = getattr(import_module(f"gateway.cli.{part.module}"), part.name)
            for module in part.also:
                import_module(f"gateway.cli.{module}")
            self.add_command(found if isinstance(found, Group) else Command(cmd_name, found), cmd_name)
        return super().get_command(ctx, cmd_name)


def command_line() -> CommandLine:
    """Returns the command line."""
    root = CommandLine(
        "gateway",
        help="A self-hosted OpenResponses gateway: local keys, limits and credits in front of an LLM provider.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    commands.register(root)
    return root


def main() -> None:
    """Runs the command line and exits."""
    root = command_line()
    try:
        root()
    except CliError as error:
        field = getattr(error, "field", "")
        for line in error.lines:
            sys.stderr.write(f"gateway: {as_options(line, field, root, sys.argv[1:]) if field else line}\n")
        sys.exit(error.exit_code)
