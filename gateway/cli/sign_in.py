"""`gateway login` and `gateway logout`: an admin key by the identity provider, for as long as a working day.

    ~/.config/gateway/signed-in/<host>-<port>    the key; readable by its owner alone (XDG_CONFIG_HOME)

It is used for its gateway where no other key is given (client.py).
"""

from __future__ import annotations

import contextlib
import os
from time import monotonic, sleep
from typing import Final

import httpx
import typer

from gateway.cli import options, output
from gateway.cli.client import AdminClient, Json, gateway_url, is_loopback
from gateway.cli.errors import USAGE, CliError
from gateway.cli.profiles import signed_in_file

_TIMEOUT_S: Final = 30.0
_TOO_OFTEN: Final = 429
_SLOWER_S: Final = 5  # RFC 8628, section 3.5


class _AskedTooOften(CliError):
    """The gateway, or the identity provider, wants to be asked less often."""


def login(*, as_json: options.AsJson = False) -> None:
    """Sign in at the identity provider that the gateway uses for operators."""
    url = gateway_url()
    with httpx.Client(base_url=f"{url}/admin/v1", timeout=_TIMEOUT_S, trust_env=not is_loopback(url)) as client:
        begun = _post(client, "/sign-in", {})
        typer.echo(f"Open {begun['verification_uri']} and enter the code {begun['user_code']}", err=True)
        if begun["verification_uri_complete"]:
            typer.echo(f"or open {begun['verification_uri_complete']}", err=True)
        deadline_s, pause_s = monotonic() + begun["expires_in_s"], begun["interval_s"]
        while True:
            sleep(pause_s)
            try:
                answer = _post(client, "/sign-in/token", {"device_code": begun["device_code"]})
            except _AskedTooOften:
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
        typer.echo(f"{ended['name']} is signed out of {url}")


def _post(client: httpx.Client, path: str, body: dict[str, str]) -> Json:
    try:
        answer = client.post(path, json=body)
        found: Json = answer.json()
    except httpx.HTTPError as error:
        raise CliError(f"{client.base_url} does not answer: {error}") from None
    except ValueError:
        raise CliError(f"{client.base_url} is no gateway") from None
    if answer.is_error:
        refused = _AskedTooOften if answer.status_code == _TOO_OFTEN else CliError
        raise refused(str(found.get("error", {}).get("message", answer.status_code)))
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
