"""`gateway init`: a configuration to begin with, from a few answers.

PROVIDERS               what is known about some providers
run(path, given, ...)   asks for missing answers, and writes the file and the admin key
configuration(answers)  the text of the file; also used by `gateway demo`
secret_file(...)        a secret in its own file, created once
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import sys
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import click

from gateway.cli.errors import USAGE, CliError
from gateway.cli.options import program
from gateway.config.errors import SettingsError, Source
from gateway.config.settings import settings_from
from gateway.config.upstream_settings import SIMULATOR
from gateway.store.url import EMBEDDED


class Provider(NamedTuple):
    """A provider. `state`: who keeps its responses; "gateway" for one that only answers POST."""

    name: str
    base_url: str
    key_variable: str
    state: str


PROVIDERS: Final[Mapping[str, Provider]] = MappingProxyType(
    {
        provider.name: provider
        for provider in (
            Provider("siraya", "https://llm.siraya.pro/v1", "SIRAYA_API_KEY", "gateway"),
            Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", "upstream"),
            Provider("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", "gateway"),
            Provider(SIMULATOR, SIMULATOR, "", "gateway"),
        )
    }
)
_FIRST: Final = next(iter(PROVIDERS))
_STATES: Final = MappingProxyType(
    {
        "gateway": "responses and conversations are kept here: the provider need only answer POST",
        "upstream": "the provider keeps responses and conversations",
    }
)
ADMIN_KEY_CHARACTERS: Final = 32


class Answers(NamedTuple):
    """What the configuration depends on. Keys are references."""

    provider: Provider
    key: str
    store: str
    admin_key: str
    data_dir: Path = Path("data")
    host: str = "127.0.0.1"
    port: int = 8080


class Given(NamedTuple):
    """The answers from the command line. None means that the person is asked."""

    provider: str | None = None
    key: str | None = None
    store: str | None = None


def run(path: Path, given: Given, *, interactive: bool, force: bool) -> None:
    """Writes the configuration and the admin key. Raises CliError before anything is written."""
    if path.exists() and not force:
        raise CliError(f"{path} is there already; --force writes another in its place, --config names another place")
    answers = _answers(given, interactive=interactive)
    text = "# The gateway's configuration. All settings: gateway init --example\n\n" + configuration(answers)
    unset = _variables_to_set(answers, path, text)
    secret_file(answers.data_dir / "admin-key", f"gw-admin-{secrets.token_urlsafe(ADMIN_KEY_CHARACTERS)}")
    if answers.provider.base_url == SIMULATOR:
        secret_file(Path(answers.key.removeprefix("file:")), "any-key-will-do")
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CliError(f"cannot write {path}: {error.strerror or error}") from None
    click.echo(_next_steps(path, answers, unset))


def example() -> str:
    """Returns the configuration that documents every setting."""
    return files("gateway.config").joinpath("gateway.example.toml").read_text(encoding="utf-8")


def _answers(given: Given, *, interactive: bool) -> Answers:
    names = ", ".join(PROVIDERS)
    named = given.provider or _ask(f"Provider ({names}, or the URL of its API)", _FIRST, interactive=interactive)
    provider = PROVIDERS.get(named.lower()) or Provider("provider", named.rstrip("/"), "PROVIDER_API_KEY", "gateway")
    if provider.name == "provider" and "://" not in named:
        raise CliError(f"--provider is one of {names}, or a URL such as https://llm.example/v1", exit_code=USAGE)
    if provider.base_url == SIMULATOR:
        key = "file:data/simulator-key"
    else:
        question = "Its key, as a reference (env:NAME or file:PATH)"
        key = given.key or _ask(question, f"env:{provider.key_variable}", interactive=interactive)
    kind, _, name = key.partition(":")
    if kind not in ("env", "file") or not name:
        raise CliError("--key is a reference, env:NAME or file:PATH, never the key itself", exit_code=USAGE)
    question = f"Store ({EMBEDDED}, or redis://, rediss://, unix://, redis+sentinel://, redis+cluster://)"
    store = given.store or _ask(question, EMBEDDED, interactive=interactive)
    return Answers(provider, key, store, admin_key="file:data/admin-key")


def _ask(question: str, default: str, *, interactive: bool) -> str:
    """Returns the answer to a question, or the default if nobody answers."""
    if not interactive:
        return default
    try:
        return str(click.prompt(question, default=default)).strip()
    except click.Abort:
        if sys.stdin.isatty():
            raise CliError("nothing was written") from None
        click.echo()
        return default


def _variables_to_set(answers: Answers, path: Path, text: str) -> list[str]:
    """Returns the referenced variables that are not set. Raises CliError for answers that cannot be served."""
    values = tomllib.loads(text)
    values["admin"] = {}  # the file of its key does not exist yet
    kind, _, name = answers.key.partition(":")
    unset = [name] if kind == "env" and not os.environ.get(name) else []
    if unset or answers.provider.base_url == SIMULATOR:
        values["upstreams"][answers.provider.name]["api_keys"] = [
            "env:PATH"
        ]  # a placeholder for values that do not exist yet
    try:
        settings = settings_from(values, Source(str(path)))
    except SettingsError as error:
        raise CliError(*error.problems) from None
    if "@" in settings.store.url and ":" in settings.store.url.partition("//")[2].partition("@")[0]:
        raise CliError("a password does not belong into the store's URL: set store.password to a reference")
    return unset


def configuration(answers: Answers) -> str:
    """Returns a configuration with its comments."""
    provider = answers.provider
    note = (
        "# The built-in simulator, which runs with the gateway: answers without a model.\n"
        if provider.base_url == SIMULATOR
        else "# The provider. base_url is what stands before /responses; keys are references, env:NAME or file:PATH.\n"
    )
    return f"""\
[server]
host = {json.dumps(answers.host)}{" " * (19 - len(answers.host))}# "0.0.0.0": reachable from elsewhere; put TLS in front
port = {answers.port}
# workers = 2               # processes; each fills one core

[store]                     # "{EMBEDDED}", or redis://host:6379/0, rediss://, unix://, redis+sentinel://, redis+cluster://
url = {json.dumps(answers.store)}
data_dir = {json.dumps(str(answers.data_dir))}
# password = "env:STORE_PASSWORD"

[admin]                     # for the command line, the admin API and /dashboard
key = {json.dumps(answers.admin_key)}

{note}[upstreams.{provider.name}]
base_url = {json.dumps(provider.base_url)}
api_keys = [{json.dumps(answers.key)}]

[[routes]]
model = "*"                 # an exact id, "provider/*", or "*"; the most specific one wins
upstreams = ["{provider.name}"]
state = "{provider.state}"{" " * (18 - len(provider.state))}# {_STATES[provider.state]}

# [aliases]                 # other names for models
# "fast" = "o4-mini"

[prices."*"]                # USD per million tokens, for every model without a row of its own: put your provider's here
input = "1.25"
cached_input = "0.125"
output = "10.00"
"""


def _next_steps(path: Path, answers: Answers, unset: list[str]) -> str:
    gateway = program()
    config = "" if path == Path("gateway.toml") else f" --config {shlex.quote(str(path))}"
    steps = [f"export {name}=..." for name in unset]
    steps += [
        f"{gateway} check{config}",
        f"{gateway} serve{config}",
        f"{gateway} teams create first --credits 10     # in another terminal",
        f"{gateway} keys create first --name laptop",
    ]
    lines = "\n".join(f"  {step}" for step in steps)
    return (
        f"Wrote {path}, and the admin key to {answers.data_dir / 'admin-key'}.\n\nNext:\n{lines}\n\n"
        f"The dashboard is at http://127.0.0.1:{answers.port}/dashboard; it asks for the admin key.\n"
        "The prices in the file are placeholders: what is charged goes by them."
    )


def secret_file(path: Path, secret: str) -> str:
    """Returns the secret in a file. A missing file is created with `secret`, readable only by its owner."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The file is written under another name and then linked, so that no reader sees a part of it. If two processes
        # start at once, the first one's secret is kept.
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(secret + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
        return path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise CliError(f"cannot use the data directory {path.parent}: {error.strerror or error}") from None
