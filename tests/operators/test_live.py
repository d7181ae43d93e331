"""Live events: one per finished request of all gateways of a store, a lead's own only, resumed from a cursor."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.support.admins import admin_client, code_of, done, new_admin, new_team
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.servers import Server


class Watch:
    """A reader of /events."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def next(self) -> tuple[str, str, dict[str, Any]]:
        """(event, id, data) of the next event; comments are passed over."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if not line and fields:
                return fields["event"], fields.get("id", ""), json.loads(fields["data"])
            name, _, value = line.partition(":")
            if name:
                fields[name] = value.strip()
        raise AssertionError("the stream ended")


@contextmanager
def watching(client: httpx.Client, **options: Any) -> Iterator[Watch]:
    with client.stream("GET", "/events", **options) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.status_code
        watch = Watch(answer)
        assert watch.next()[0] == "ready"
        yield watch


def test_every_finished_request_of_every_gateway_is_shown(
    store: Server, upstream: str, gateway: RunningGateway, tmp_path: Path
) -> None:
    with admin_client(gateway) as root, running_gateway(store.url, upstream, tmp_path) as second:
        team = new_team(root)
        made = done(root.post(f"/teams/{team['id']}/keys", json={"name": "k", "limits": {"rpm": 2}}))
        with watching(root) as watch:
            for one in (gateway, second):
                with one.sdk(made["key"]) as client:
                    client.responses.create(model="a/model", input="x")
            seen = [watch.next() for _ in range(2)]
            with second.sdk(made["key"]) as client, pytest.raises(openai.RateLimitError):
                client.responses.create(model="a/model", input="x")
            seen.append(watch.next())
        assert [name for name, _, _ in seen] == ["request"] * 3
        assert [event["outcome"] for _, _, event in seen] == ["completed", "completed", "refused"]
        assert {event["key_id"] for _, _, event in seen} == {made["id"]}
        assert seen[2][2]["limit"] == "rpm"
        with watching(root, headers={"last-event-id": seen[0][1]}) as again:
            assert [again.next() for _ in range(2)] == seen[1:]


def test_a_lead_sees_its_own_team_alone(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        own, other = new_team(root), new_team(root)
        texts = [done(root.post(f"/teams/{team['id']}/keys", json={"name": "k"}))["key"] for team in (other, own)]
        with admin_client(gateway, new_admin(root, "team", own["id"])) as lead, watching(lead) as watch:
            for text in texts:
                with gateway.sdk(text) as client:
                    client.responses.create(model="a/model", input="x")
            assert watch.next()[2]["team_id"] == own["id"]


def test_a_cursor_that_is_none_is_refused(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        assert code_of(root.get("/events", headers={"last-event-id": "x"})) == "invalid_field"
