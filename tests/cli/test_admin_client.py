"""teams, keys and credits on the command line: what people see, what scripts get, what goes wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.support.gateway import ADMIN_KEY, RunningGateway, simulator
from tests.support.shell import Shell


@pytest.fixture
def shell(
    gateway: RunningGateway, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(gateway, capsys)


def test_a_team_with_limits_and_credits_and_a_key_that_works(shell: Shell, gateway: RunningGateway) -> None:
    flags = ("--credits", "10.50", "--rpm", "60", "--tpm", "100000", "--concurrency", "5", "--budget-usd-day", "5.00")
    team = shell.json("teams", "create", "research", *flags, "--models", "o4-mini, openai/*")
    assert team["balance"]["available_usd"] == "10.5"
    assert team["models"] == ["o4-mini", "openai/*"]
    assert {name: limit.get("limit", limit.get("limit_usd")) for name, limit in team["limits"].items()} == {
        "rpm": 60,
        "tpm": 100_000,
        "concurrency": 5,
        "budget_usd_day": "5",
    }
    key = shell.json("keys", "create", "research", "--name", "laptop", "--rpm", "7")
    assert key["id"] in key["key"]
    assert gateway.sdk(key["key"]).responses.create(model="o4-mini", input="Hi").status == "completed"

    shown = shell("teams", "show", "research").out
    assert "concurrency" in shown
    assert "10.5" in shown
    listed = shell("teams", "list").out
    assert "research" in listed
    assert "o4-mini, openai/*" in listed
    assert "laptop" in shell("keys", "list", "research").out
    by_label, by_id = shell("keys", "show", "research", "laptop"), shell("keys", "show", "research", key["id"])
    assert by_label.out.splitlines()[:3] == by_id.out.splitlines()[:3]
    assert key["key"] not in by_label.out


def test_a_key_is_shown_once_for_people_too(shell: Shell) -> None:
    assert shell("teams", "create", "people").code == 0
    made = shell("keys", "create", "people", "--name", "laptop")
    assert "sk-gw-" in made.out
    assert "not shown again" in made.out
    assert "sk-gw-" not in shell("keys", "list", "people", "--json").out


def test_credits_go_up_and_down_and_once_per_idempotency_key(shell: Shell) -> None:
    shell("teams", "create", "books")
    for _ in range(2):
        grant = shell.json("credits", "grant", "books", "5", "--note", "May", "--idempotency-key", "may")
        assert grant["available_usd"] == "5"
    assert shell.json("credits", "adjust", "books", "-1.25")["available_usd"] == "3.75"
    assert shell.json("credits", "show", "books")["granted_usd"] == "3.75"
    assert "3.75" in shell("credits", "show", "books").out


def test_an_unmetered_team_is_said_to_be_one(shell: Shell) -> None:
    assert shell.json("teams", "create", "ours", "--unmetered")["metered"] is False
    assert "unmetered" in shell("teams", "list").out


def test_a_name_with_brackets_is_shown_as_it_is(shell: Shell) -> None:
    assert shell("teams", "create", "[red]team").code == 0
    assert "[red]team" in shell("teams", "list").out


def test_an_unknown_team_comes_with_a_suggestion(shell: Shell) -> None:
    shell("teams", "create", "platform")
    done = shell("credits", "show", "platfrom")
    assert (done.code, done.out) == (1, "")
    assert done.err == "gateway: There is no team 'platfrom'. Is it 'platform'?\n"


def test_a_refusal_is_the_gateway_s_own_message(shell: Shell) -> None:
    shell("teams", "create", "twice")
    done = shell("teams", "create", "twice")
    assert (done.code, done.err) == (1, "gateway: There is a team 'twice' already.\n")
    done = shell("credits", "grant", "twice", "much")
    assert done.code == 1
    assert "amount_usd" in done.err


def test_a_wrong_admin_key_names_where_it_came_from(shell: Shell, tmp_path: Path) -> None:
    done = shell("teams", "list", GATEWAY_ADMIN_KEY="wrong")
    assert done.code == 1
    assert "does not know the admin key in GATEWAY_ADMIN_KEY" in done.err
    (tmp_path / "key").write_text(f"{ADMIN_KEY}\n", encoding="ascii")
    assert shell("teams", "list", GATEWAY_ADMIN_KEY=f"file:{tmp_path / 'key'}").code == 0


def test_the_demo_s_admin_key_is_found_in_its_directory_and_sent_to_this_machine_alone(
    shell: Shell, tmp_path: Path
) -> None:
    assert shell("teams", "list", GATEWAY_ADMIN_KEY="").code == 2
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "admin-key").write_text(f"{ADMIN_KEY}\n", encoding="ascii")
    assert shell("teams", "list", GATEWAY_ADMIN_KEY="").code == 0
    elsewhere = shell("teams", "list", GATEWAY_ADMIN_KEY="", GATEWAY_URL="http://gateway.example")
    assert elsewhere.code == 2
    assert elsewhere.err.startswith("gateway: no admin key: set GATEWAY_ADMIN_KEY")


def test_nothing_that_answers_is_said_in_one_line(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = shell("teams", "list", GATEWAY_URL=url)
    assert done.code == 1
    assert done.err.startswith(f"gateway: nothing answers at {url}")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("url", ["ftp://x", "nonsense", "http://x:port"])
def test_an_address_that_is_none_is_wrong_usage(shell: Shell, url: str) -> None:
    done = shell("teams", "list", GATEWAY_URL=url)
    assert done.code == 2
    assert done.err.startswith("gateway: GATEWAY_URL")
    assert done.err.count("\n") == 1


def test_something_else_that_answers_is_said_to_be_no_gateway(shell: Shell) -> None:
    with simulator() as other:
        done = shell("teams", "list", GATEWAY_URL=other.removesuffix("/v1") + "/nowhere")
    assert done.code == 1
    assert done.err.count("\n") == 1
