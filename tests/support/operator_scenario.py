"""A platform engineer's week as a scenario. An Operator is the tool that is used.

Three teams get keys. One key is rotated under load without a failed request. Spend is read, a refusal is explained,
credits are granted, an upstream is disabled and enabled again.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

import openai
import pytest

from tests.support.gateway import RunningGateway
from tests.support.waiting import wait_until_sync


@dataclass(frozen=True)
class CreatedKey:
    """A key: its id and its text."""

    id: str
    text: str


class Operator(Protocol):
    """What the scenario needs of a tool. Teams are given by name; `spend` returns USD by name."""

    def new_team(self, name: str, credits_usd: str) -> None: ...
    def new_key(self, team: str, name: str) -> CreatedKey: ...
    def rotate(self, team: str, key_id: str) -> str: ...
    def unused_secrets(self, team: str, key_id: str) -> int: ...
    def limit_key(self, team: str, key_id: str, rpm: int) -> None: ...
    def spend(self, by: str, team: str | None = None) -> dict[str, Decimal]: ...
    def why_refused(self, team: str) -> list[str]: ...
    def grant(self, team: str, usd: str) -> None: ...
    def turn_upstream(self, name: str, *, on: bool) -> None: ...


class Load:
    """Clients that send requests without pause, each with the present key. Mutable."""

    def __init__(self, gateway: RunningGateway, text: str) -> None:
        self.text = text
        self.done = 0
        self.failures: list[str] = []
        self._gateway = gateway
        self._stop = threading.Event()

    def run(self) -> None:
        while not self._stop.is_set():
            with self._gateway.sdk(self.text) as client:
                try:
                    client.responses.create(model="openai/small", input="hello")
                    self.done += 1
                except openai.OpenAIError as error:
                    self.failures.append(repr(error))
                    return

    def more(self, count: int) -> None:
        """Waits for a number of further requests."""
        until = self.done + count
        wait_until_sync(lambda: self.done >= until or bool(self.failures), what="requests go on")

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def loading(gateway: RunningGateway, text: str, clients: int = 3) -> Iterator[Load]:
    load = Load(gateway, text)
    threads = [threading.Thread(target=load.run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join(timeout=30)


def run_operator_scenario(operator: Operator, gateway: RunningGateway) -> None:
    """Runs the whole scenario. Fails at the first result that an engineer would not expect."""
    mark = uuid.uuid4().hex[:8]
    search, chat, batch = (f"{name}-{mark}" for name in ("search", "chat", "batch"))
    for team in (search, chat):
        operator.new_team(team, "10")
    operator.new_team(batch, "0")
    keys = {team: operator.new_key(team, "service") for team in (search, chat, batch)}

    with loading(gateway, keys[search].text) as load:
        load.more(5)
        new = operator.rotate(search, keys[search].id)
        assert new != keys[search].text
        load.more(5)
        assert operator.unused_secrets(search, keys[search].id) == 1, "one sees who still uses the old secret"
        load.text = new
        load.more(8)
    assert load.failures == []
    assert operator.unused_secrets(search, keys[search].id) == 0

    send(gateway, keys[chat].text, "openai/large")
    gateway.wait_until_settled()
    by_team = operator.spend("team")
    assert by_team[search] > by_team[chat] > 0
    assert batch not in by_team
    assert operator.spend("model", chat).keys() == {"openai/large"}
    assert sum(operator.spend("key", search).values()) == by_team[search]

    operator.limit_key(chat, keys[chat].id, rpm=1)
    send(gateway, keys[chat].text)
    with pytest.raises(openai.RateLimitError):
        send(gateway, keys[chat].text)
    reasons: list[str] = []

    def refusal_seen() -> bool:
        reasons[:] = operator.why_refused(chat)
        return reasons != []

    wait_until_sync(refusal_seen, what="the refusal is seen")
    assert reasons == ["key rpm rate_limit_exceeded"]

    with pytest.raises(openai.APIStatusError, match=r"(?i)credit|balance"):
        send(gateway, keys[batch].text)
    operator.grant(batch, "5")
    send(gateway, keys[batch].text)

    operator.turn_upstream("simulator", on=False)
    with pytest.raises(openai.InternalServerError, match="No provider"):
        send(gateway, keys[batch].text)
    operator.turn_upstream("simulator", on=True)
    send(gateway, keys[batch].text)


def send(gateway: RunningGateway, text: str, model: str = "openai/small") -> None:
    with gateway.sdk(text) as client:
        client.responses.create(model=model, input="hello")
