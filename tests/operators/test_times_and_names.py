"""What people write for a time works everywhere, and what is wrong is named as they wrote it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.gateway import RunningGateway
from tests.support.shell import Shell


@pytest.fixture
def shell(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GATEWAY_PROFILE", "")
    return Shell(gateway, capsys)


@pytest.fixture
def team(shell: Shell) -> str:
    name = f"t-{uuid.uuid4().hex[:10]}"
    shell.json("teams", "create", name, "--credits", "10")
    return name


@pytest.mark.parametrize("form", ["tomorrow", "{day}", "{day}T00:00:00Z"])
def test_every_command_that_takes_an_expiry_takes_every_form(shell: Shell, team: str, form: str) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    next_day = tomorrow + timedelta(days=1)  # which is tomorrow as well, where the test runs over midnight
    text = form.format(day=next_day)
    shell.json("keys", "create", team, "--name", "laptop", "--expires-at", text)
    other = f"{team}-2"
    admin = uuid.uuid4().hex[:10]
    found = [
        shell.json("keys", "show", f"{team}/laptop"),
        shell.json("keys", "expire", f"{team}/laptop", text),
        shell.json("teams", "create", other, "--expires-at", text),
        shell.json("teams", "expire", other, text),
        shell.json("admins", "create", admin, "--scope", "read", "--expires-at", text),
    ]
    ends = {(each.get("admin_key") or each)["expires_at"][:10] for each in found}
    assert ends <= {str(tomorrow), str(next_day)}


@pytest.mark.parametrize("text", ["today", "2026-11-01", "2026-11-01T06:00:00Z", "2026-11-01T06:00"])
def test_every_command_that_takes_a_period_takes_every_form(shell: Shell, team: str, text: str) -> None:
    for words in (("usage",), ("usage", "--team", team), ("ledger", "export", team)):
        done = shell(*words, "--from", text, "--to", "tomorrow")
        assert done.code == 0, done


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("usage", "--from", "soon"), "--from: 'soon' is no time or day, such as 2026-11-01"),
        (("usage", "--to", "soon"), "--to: 'soon'"),
        (("keys", "create", "TEAM", "--name", "a", "--expires-at", "soon"), "--expires-at: 'soon'"),
        (("teams", "create", "other", "--expires-at", "soon"), "--expires-at: 'soon'"),
        (("teams", "create", "other", "--credits", "much"), "--credits: 'much'"),
        (("keys", "create", "TEAM", "--name", "a", "--models", "a *"), "--models"),
    ],
)
def test_a_refusal_names_what_was_written(shell: Shell, team: str, words: tuple[str, ...], named: str) -> None:
    done = shell(*(team if word == "TEAM" else word for word in words))
    assert done.code != 0
    assert named in done.err
    assert "expires_at" not in done.err
