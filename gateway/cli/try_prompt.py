"""`gateway try "prompt"`: one streamed request through the gateway, then its cost and what remains of the limits.

The key is --key, GATEWAY_API_KEY, or the profile's api_key. The cost is the ledger's if an admin key is available.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any, Final

import click

from gateway.cli import output
from gateway.cli.calls import Answer, Calls, NoAnswerError, NoConnectionError
from gateway.cli.client import DEFAULT_URL, AdminApiError, AdminClient, called
from gateway.cli.errors import USAGE, CliError
from gateway.cli.profiles import default_profile, named_profile, secret
from gateway.cli.signatures import argument, option
from gateway.protocol.response_events import TERMINAL_EVENTS, TERMINAL_STATUSES

_TIMEOUT_S: Final = 600.0
_SETTLED_WITHIN_S: Final = 2.0
_POLL_S: Final = 0.05


def try_(
    prompt: Annotated[str, argument("What to ask.")],
    *,
    model: Annotated[str | None, option("By default, the first that the key may use.")] = None,
    key: Annotated[str | None, option("An API key of a team.", envvar="GATEWAY_API_KEY")] = None,
    max_output_tokens: Annotated[int | None, option("The longest answer.", minimum=1)] = None,
    as_json: Annotated[bool, option("One JSON object at the end, for scripts.", "--json")] = False,
) -> None:
    """Send a request through the gateway and stream its answer; then show its cost and the limits."""
    url, text = _where(key)
    with called(url, text, timeout_s=_TIMEOUT_S) as calls:
        try:
            body = {"model": model or _first_model(calls), "input": prompt, "stream": True}
            if max_output_tokens is not None:
                body["max_output_tokens"] = max_output_tokens
            answer = _stream(calls, body, silent=as_json)
            cost = _cost(answer.request_id)  # first, because then the balance is that after the settlement
            mine = _good(calls.request("GET", "/v1/key"))
        except (NoConnectionError, NoAnswerError) as error:
            raise CliError(f"no answer from {url} ({error})") from None
    usage = answer.usage
    if as_json:
        seen = {"id": answer.request_id, "output_text": answer.text, "usage": usage or None, "cost_usd": cost or None}
        output.as_json({**seen, "key": mine})
        return
    click.echo()
    output.fields(
        {
            "request": answer.request_id,
            "tokens": f"{usage.get('input_tokens', 0)} in, {usage.get('output_tokens', 0)} out" if usage else "unknown",
            "cost USD": cost or "see the team's usage",
            "balance USD": mine["team"]["balance"]["available_usd"] if mine["team"]["metered"] else "unmetered",
        }
    )
    for scope, limits in (("key", mine["limits"]), ("team", mine["team"]["limits"])):
        if limits:
            click.echo(f"\nlimits of the {scope}")
            output.limits_table(limits)


def _where(key: str | None) -> tuple[str, str]:
    profile = named_profile()
    if profile is None and "GATEWAY_URL" not in os.environ:
        profile = default_profile()
    url = profile.url if profile is not None else os.environ.get("GATEWAY_URL") or DEFAULT_URL
    if key is None and profile is not None and profile.api_key:
        key = secret(profile.api_key)
    if key is None:
        raise CliError("no API key: give --key, set GATEWAY_API_KEY, or api_key in the profile", exit_code=USAGE)
    return url.rstrip("/"), key


def _first_model(calls: Calls) -> str:
    models = _good(calls.request("GET", "/v1/models"))["data"]
    if not models:
        raise CliError("this key may use no model that the gateway can name: give one with --model", exit_code=USAGE)
    return str(models[0]["id"])


@dataclass(frozen=True)
class _Answer:
    """An answer. `usage` is {} if the stream ended without usage."""

    request_id: str
    text: str
    usage: dict[str, Any]


def _stream(calls: Calls, body: dict[str, Any], *, silent: bool) -> _Answer:
    """Prints the answer's text as it arrives, unless silent."""
    usage: dict[str, Any] = {}
    text: list[str] = []
    with calls.opened("POST", "/v1/responses", body=body) as answer:
        if not answer.is_success:
            _good(answer.whole())
        for line in answer.lines():
            if not line.startswith("data:") or line.endswith("[DONE]"):
                continue
            event = json.loads(line.removeprefix("data:"))
            kind = event.get("type", "")
            if kind == "response.output_text.delta":
                text.append(event["delta"])
                if not silent:
                    sys.stdout.write(event["delta"])
                    sys.stdout.flush()
            elif kind in TERMINAL_STATUSES:
                usage = event["response"].get("usage") or {}
                if kind == TERMINAL_EVENTS["failed"]:
                    error = event["response"].get("error") or {}
                    sys.stderr.write(f"\ngateway: the answer failed: {error.get('message')}\n")
        return _Answer(answer.headers.get("x-request-id", ""), "".join(text), usage)


def _good(answer: Answer) -> dict[str, Any]:
    body = answer.json()
    if answer.is_success and isinstance(body, dict):
        return body
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        raise CliError(f"what answers is no gateway ({answer.status}): check the URL")
    resets = f" (from {error['resets_at']} on)" if error.get("resets_at") else ""
    raise CliError(f"{error.get('code')}: {error.get('message')}{resets}")


def _cost(request_id: str) -> str:
    """Returns the cost from the ledger, or "" without an admin key that may see it.

    A request is settled after its client has the answer, and so it may not be found at once.
    """
    deadline_s = time.monotonic() + _SETTLED_WITHIN_S
    try:
        with AdminClient.from_environment() as client:
            while (cost := _settled_cost(client, request_id)) is None and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)
            return cost or ""
    except CliError:
        return ""


def _settled_cost(client: AdminClient, request_id: str) -> str | None:
    """Returns the cost of a request; None: it is not settled yet. Raises CliError."""
    try:
        cost = client.get(f"/requests/{request_id}")["cost_usd"]
    except AdminApiError as error:
        if error.code == "request_not_found":
            return None
        raise
    return None if cost is None else str(cost)
