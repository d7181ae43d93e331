"""`gateway login` and `gateway logout`: a temporary admin key by a sign-in at the identity provider.

    ~/.config/gateway/signed-in/<host>-<port>    the key; readable by its owner alone (XDG_CONFIG_HOME)

It is used for its gateway if no other key is given (client.py).
"""

from __future__ import annotations

import contextlib
import os
from http import HTTPStatus
from time import monotonic, sleep
from typing import Final

import click

from gateway.cli import options, output
from gateway.cli.calls import Calls, NoAnswerError, NoConnectionError
from gateway.cli.client import API, AdminClient, Json, called, gateway_url
from gateway.cli.errors import USAGE, CliError
from gateway.cli.profiles import signed_in_file

_SLOWER_S: Final = 5  # RFC 8628, section 3.5


class _PolledTooOften(CliError):
    """The gateway or the identity provider wants fewer polls."""


def login(*, as_json: options.AsJson = False) -> None:
    """Sign in at the identity provider that the gateway uses for operators."""
    url = gateway_url()
    with called(url) as calls:
        begun = _post(calls, url, "/sign-in", {})
        click.echo(f"Open {begun['verification_uri']} and enter the code {begun['user_code']}", err=True)
        if begun["verification_uri_complete"]:
            click.echo(f"or open {begun['verification_uri_complete']}", err=True)
        deadline_s, pause_s = monotonic() + begun["expires_in_s"], begun["interval_s"]
        while True:
            sleep(pause_s)
            try:
                answer = _post(calls, url, "/sign-in/token", {"device_code": begun["device_code"]})
            except _PolledTooOften:
                answer, pause_s = {}, pause_s + _SLOWER_S
            if "key" in answer:
                break
            if monotonic() >= deadline_s:
                raise CliError("nobody has entered the code in time")
    _store(url, answer.pop("key"))
    if as_json:
        output.as_json(answer)
    else:
        output.fields({"name": answer["name"], "scope": answer["scope"], "until": answer["expires_at"]})


def logout(*, as_json: options.AsJson = False) -> None:
    """End the sign-in of this machine."""
    url = gateway_url()
    path = signed_in_file(url)
    if not path.is_file():
        raise CliError(f"nobody is signed in to {url} here", exit_code=USAGE)
    try:
        with AdminClient(url, path.read_text(encoding="ascii").strip(), str(path)) as client:
            ended = client.delete("/sign-in")
    finally:
        path.unlink(missing_ok=True)
    if as_json:
        output.as_json(ended)
    else:
        click.echo(f"{ended['name']} is signed out of {url}")


def _post(calls: Calls, url: str, path: str, body: dict[str, str]) -> Json:
    try:
        answer = calls.request("POST", API + path, body=body)
    except (NoConnectionError, NoAnswerError) as error:
        raise CliError(f"{url} does not answer: {error}") from None
    found = answer.json()
    if not isinstance(found, dict):
        raise CliError(f"{url} is no gateway")
    if not answer.is_success:
        refused = _PolledTooOften if answer.status == HTTPStatus.TOO_MANY_REQUESTS else CliError
        raise refused(str(found.get("error", {}).get("message", answer.status)))
    return found


def _store(url: str, key: str) -> None:
    """Writes the key to its file, which nobody else can read at any time."""
    path = signed_in_file(url)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = path.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(key)
    new.replace(path)
