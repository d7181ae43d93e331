"""The command line: changing keys, limits, usage with bars, requests, upstreams, audit, config, top, try."""

import csv
import io
import json
import re
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.cli.options import seconds
from tests.support.admins import admin_client, new_admin
from tests.support.gateway import ADMIN_KEY, RunningGateway
from tests.support.program import environment, run
from tests.support.shell import Shell
from tests.support.waiting import wait_until_sync


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


@pytest.fixture
def key(shell: Shell, team: str) -> dict[str, Any]:
    made: dict[str, Any] = shell.json("keys", "create", team, "--name", "laptop")
    return made


def send(gateway: RunningGateway, text: str, model: str = "a/model") -> None:
    with gateway.sdk(text) as client:
        client.responses.create(model=model, input="x")
    gateway.wait_until_settled()


def test_a_rotation_shows_the_new_key_once_and_until_when_the_old_one_works(
    shell: Shell, gateway: RunningGateway, team: str, key: dict[str, Any]
) -> None:
    done = shell("keys", "rotate", f"{team}/laptop", "--overlap", "30m")
    assert done.code == 0, done
    assert re.search(r"works until \d{4}-", done.out)
    (new,) = re.findall(r"sk-gw-\S+", done.out)
    send(gateway, new)
    send(gateway, key["key"])
    shown = [shell("keys", "show", *words) for words in ((team, "laptop"), (f"{team}/laptop",), (key["id"],))]
    assert shown[0].out == shown[1].out == shown[2].out != ""
    assert "sk-gw-" not in shown[0].out


def test_a_rotation_is_repeated_by_its_name(shell: Shell, key: dict[str, Any]) -> None:
    words = ("keys", "rotate", key["id"], "--idempotency-key", "november")
    assert shell.json(*words)["key"] == shell.json(*words)["key"]


@pytest.mark.parametrize("words", [("rotate", "--now"), ("rotate", "--overlap", "0"), ("revoke",)])
def test_what_cannot_be_undone_asks_first(
    shell: Shell, gateway: RunningGateway, key: dict[str, Any], words: tuple[str, ...]
) -> None:
    verb, *flags = words
    done = shell("keys", verb, key["id"], *flags)
    assert done.code == 2
    assert "--yes" in done.err
    send(gateway, key["key"])
    assert shell("keys", verb, key["id"], *flags, "--yes").code == 0
    with pytest.raises(openai.AuthenticationError):
        send(gateway, key["key"])


def test_a_key_is_disabled_enabled_labelled_limited_and_expires(
    shell: Shell, gateway: RunningGateway, team: str, key: dict[str, Any]
) -> None:
    assert shell.json("keys", "disable", key["id"])["status"] == "disabled"
    with pytest.raises(openai.AuthenticationError):
        send(gateway, key["key"])
    assert shell.json("keys", "enable", f"{team}/laptop")["status"] == "active"
    assert shell.json("keys", "label", key["id"], "desktop")["name"] == "desktop"
    assert shell.json("keys", "allow", key["id"], "a/*")["models"] == ["a/*"]
    assert shell.json("keys", "operations", key["id"], "responses,images.*")["operations"] == ["responses", "images.*"]
    assert shell.json("keys", "limits", key["id"], "rpm=7", "budget_usd_day=1.50")["limits"]["rpm"]["limit"] == 7
    assert "rpm" not in shell.json("keys", "limits", f"{team}/desktop", "rpm=none")["limits"]
    assert "expires_at" in shell("keys", "expire", key["id"], "soon").err
    assert "this time has passed" in shell("keys", "expire", key["id"], "2020-01-01T00:00:00Z").err
    assert shell.json("keys", "expire", key["id"], "2090-01-01T00:00:00Z")["expires_at"].startswith("2090")
    assert shell.json("keys", "expire", key["id"], "never")["expires_at"] is None
    send(gateway, key["key"])


def test_whose_a_leaked_key_is(
    shell: Shell, gateway: RunningGateway, team: str, key: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = key["key"]
    send(gateway, text)
    beginning = text[: text.rindex("-")]
    found = shell("keys", "find", beginning)
    assert (found.code, found.err) == (0, "")
    assert all(part in found.out for part in (team, key["id"], key["name"], "not given in full", "keys revoke"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"export OPENAI_API_KEY={text} # from a public repository\n"))
    whole = shell("keys", "find")
    assert "this secret  works" in whole.out
    assert text[-51:] not in whole.out + found.out, "no command repeats a secret"
    shell("keys", "rotate", key["id"], "--now", "--yes")
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert "does not work: it was rotated out" in shell("keys", "find").out
    monkeypatch.setattr(sys, "stdin", io.StringIO("nothing here"))
    assert shell("keys", "find").code == 2
    assert shell("keys", "find", "sk-gw-0123456789-0123456789").code == 1


def test_a_part_of_a_leaked_key_is_enough_if_no_other_key_begins_so(
    shell: Shell, team: str, key: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = key["key"]
    to_team = text[: len("sk-gw-0123456789")]
    for beginning in (text[: text.rindex("-") - 1], f"{to_team}-{key['id'][:7]}", f"{to_team}-", to_team):
        found = shell.json("keys", "find", beginning)
        assert (found["id"], found["team_name"], found["this_secret"]) == (key["id"], team, "not given in full")
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert shell.json("keys", "find", "-")["this_secret"] == "works"
    other = shell.json("keys", "create", team, "--name", "another")
    both = shell("keys", "find", to_team)
    assert both.code == 1
    assert all(one in both.err for one in (key["id"], other["id"], "another", "give more of it"))
    assert "no key's id begins with" in shell("keys", "find", f"{to_team}-000000").err
    assert shell("keys", "find", "sk-gw-").code == 2


def test_a_key_that_is_not_there_and_a_limit_that_is_none_are_said_so(shell: Shell, team: str) -> None:
    assert shell("keys", "disable", "0123456789").err == "gateway: There is no key '0123456789'.\n"
    assert "is it rpm?" in shell("limits", "set", team, "rmp=5").err
    assert "whole number" in shell("limits", "set", team, "rpm=many").err
    assert "not a duration" in shell("keys", "rotate", "0123456789", "--overlap", "soon").err


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("5", 5)])
def test_durations(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_a_teams_limits_and_settings(shell: Shell, team: str) -> None:
    assert "rpm" in shell("limits", "set", team, "rpm=5", "budget-usd-month=100").out
    assert set(shell.json("limits", "show", team)) == {"rpm", "budget_usd_month"}
    assert shell.json("teams", "allow", team, "a/*,b/c")["models"] == ["a/*", "b/c"]
    assert shell.json("teams", "operations", team, "responses.*")["operations"] == ["responses.*"]
    assert "responses.*" in shell("teams", "show", team).out
    refused = shell("teams", "operations", team, "chat")
    assert refused.code != 0
    assert "chat.completions" in refused.err
    assert shell.json("teams", "disable", team, "--yes")["status"] == "disabled"
    assert shell.json("teams", "enable", team)["status"] == "active"
    assert shell.json("teams", "rename", team, f"{team}-new")["name"] == f"{team}-new"


def test_usage_has_bars_as_long_as_the_spend(
    shell: Shell, gateway: RunningGateway, team: str, key: dict[str, Any]
) -> None:
    for model, times in (("a/one", 1), ("a/two", 3)):
        for _ in range(times):
            send(gateway, key["key"], model)
    done = shell("usage", "--team", team, "--by", "model", "--from", "2026-11-01")
    bars = {line.split()[0]: line.count("█") for line in done.out.splitlines() if "█" in line}
    assert bars["a/two"] == 30
    assert 5 <= bars["a/one"] <= 15
    assert f"{team}/laptop" in shell("usage", "--by", "key", "--team", team).out
    assert "T" in shell("usage", "--by", "time", "--step", "hour", "--team", team).out
    assert "Nothing was used" in shell("usage", "--team", team, "--to", "2020-01-01", "--from", "2019-12-01").out


def test_usage_is_written_as_csv_with_exact_figures(
    shell: Shell, gateway: RunningGateway, team: str, key: dict[str, Any]
) -> None:
    send(gateway, key["key"], "=a/one")
    for by, named in (
        ("model", {"model": "'=a/one"}),
        ("key", {"key": "laptop", "team": team}),
        ("team", {"team": team}),
    ):
        said = shell.json("usage", "--team", team, "--by", by)["groups"][0]
        done = shell("usage", "--team", team, "--by", by, "--csv")
        (row,) = csv.DictReader(io.StringIO(done.out, newline=""))
        assert row["cost_usd"] == said["cost_usd"]
        assert {name: row[name] for name in named} == named
    assert shell("usage", "--team", team, "--by", "time", "--csv").out.startswith("start,requests,")
    nothing = shell("usage", "--team", team, "--csv", "--to", "2020-01-01", "--from", "2019-12-01").out
    assert [line.partition(",")[0] for line in nothing.splitlines()] == ["team"], "the headings stand alone"


def test_requests_and_what_became_of_one(shell: Shell, gateway: RunningGateway, team: str, key: dict[str, Any]) -> None:
    shell.json("keys", "limits", key["id"], "rpm=1")
    send(gateway, key["key"])
    with pytest.raises(openai.RateLimitError):
        send(gateway, key["key"])
    wait_until_sync(lambda: "refused" in shell("requests", "list", "--team", team).out, what="the refusal is seen")
    listed = shell.json("requests", "list", "--team", team)
    refused, settled = listed
    assert "rate_limit_exceeded" in shell("requests", "show", refused["id"]).out
    told = shell("requests", "show", settled["id"]).out
    assert "simulator: 200" in told
    assert "configuration" in next(line for line in told.splitlines() if "chosen" in line)
    entries = shell.json("ledger", "journal", team)
    assert [entry["type"] for entry in entries] == ["settle", "grant"]
    assert settled["id"] in shell("ledger", "journal", team, "--type", "settle").out
    assert "key rpm rate_limit_exceeded" in shell("requests", "list", "--team", team).out
    shown = shell("requests", "show", listed[-1]["id"])
    assert "settled" in shown.out
    assert "request_not_found" not in shown.err
    assert shell("requests", "show", "req_nobody").code == 1


def test_an_upstream_goes_out_and_comes_back(shell: Shell) -> None:
    assert "healthy" in shell("upstreams", "list").out
    assert shell("upstreams", "disable", "simulator").code == 2
    assert "out since" in shell("upstreams", "disable", "simulator", "--yes").out
    assert shell("upstreams", "enable", "simulator").code == 0
    assert "There is no upstream 'nobody'" in shell("upstreams", "enable", "nobody").err


def test_the_audit_log_shows_what_differs(shell: Shell, team: str) -> None:
    shell("limits", "set", team, "rpm=5")
    out = shell("audit", "--team", team).out
    assert "PATCH /teams/{team}" in out
    assert '"rpm"' in out
    assert shell.json("audit", "--limit", "1")[0]["actor"] == "root"


def test_admin_keys_and_who_one_is(shell: Shell, gateway: RunningGateway, team: str) -> None:
    made = shell.json("admins", "create", "lead", "--scope", "team", "--team", team)
    assert "lead" in shell("admins", "list").out
    me = shell("whoami", GATEWAY_ADMIN_KEY=made["key"])
    assert team in me.out
    assert "may not" in shell("credits", "grant", team, "5", GATEWAY_ADMIN_KEY=made["key"]).err
    rotated = shell("admins", "rotate", made["id"], "--overlap", "1h")
    assert "works until" in rotated.out
    for key in (made["key"], rotated.out.split()[1]):
        assert team in shell("whoami", GATEWAY_ADMIN_KEY=key).out
    assert shell("admins", "rotate", made["id"], "--now").code == 2
    assert shell("admins", "rotate", made["id"], "--now", "--yes").code == 0
    assert shell("whoami", GATEWAY_ADMIN_KEY=made["key"]).code == 1
    assert shell("admins", "delete", made["id"]).code == 2
    assert shell("admins", "delete", made["id"], "--yes").code == 0
    assert shell("whoami", GATEWAY_ADMIN_KEY=made["key"]).code == 1


def test_config_in_force_and_a_reload_that_cannot_be(shell: Shell) -> None:
    assert "simulator" in shell("config", "show").out
    done = shell("config", "reload")
    assert (done.code, done.err) == (1, "gateway: This gateway was started without a file: there is nothing to read.\n")
    assert shell("config", "check", "--config", "nothing.toml").code == 1


def test_top_shows_requests_as_they_end(shell: Shell, gateway: RunningGateway, team: str, key: dict[str, Any]) -> None:
    stop = threading.Event()

    def traffic() -> None:
        while not stop.is_set():
            send(gateway, key["key"])
            stop.wait(0.05)

    thread = threading.Thread(target=traffic)
    thread.start()
    try:
        lines = shell("top", "--team", team, "--count", "2").out.splitlines()
        events = [json.loads(line) for line in shell("top", "--team", team, "--count", "2", "--json").out.splitlines()]
    finally:
        stop.set()
        thread.join()
    assert len(lines) == 2
    assert all("200 completed a/model" in line for line in lines)
    assert {event["key_id"] for event in events} == {key["id"]}


def test_try_streams_the_answer_and_shows_cost_and_limits(shell: Shell, team: str, key: dict[str, Any]) -> None:
    shell("limits", "set", team, "rpm=50")
    done = shell("try", "hello", "--model", "a/model", "--key", key["key"])
    assert (done.code, done.err) == (0, "")
    fields = dict(re.findall(r"^(request|tokens|cost USD|balance USD)\s+(.+)$", done.out, re.MULTILINE))
    assert fields["request"].startswith("req_")
    assert float(fields["cost USD"]) > 0
    assert float(fields["balance USD"]) < 10
    assert "limits of the team" in done.out
    assert len(done.out.splitlines()[0]) > 5
    refused = shell("try", "hello", "--model", "a/model", "--key", "sk-gw-wrong")
    assert (refused.code, refused.out) == (1, "")
    assert "invalid_api_key" in refused.err
    assert shell("try", "hello").code == 2


def test_profiles_name_several_gateways(
    shell: Shell, gateway: RunningGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, team: str
) -> None:
    with admin_client(gateway) as root:
        lead = new_admin(root, "team", team)
    (tmp_path / "lead").write_text(lead, encoding="ascii")
    path = tmp_path / "profiles.toml"
    path.write_text(
        f"""default = "root"
[root]
url = "{gateway.url}"
admin_key = "env:THE_ADMIN_KEY"
[lead]
url = "{gateway.url}"
admin_key = "file:{tmp_path / "lead"}"
[half]
url = "{gateway.url}"
""",
        encoding="utf-8",
    )
    env = {"GATEWAY_PROFILES": str(path), "THE_ADMIN_KEY": ADMIN_KEY}
    told = [run(*words, "whoami", cwd=tmp_path, env=env) for words in ((), ("--profile", "lead"), ("--profile", "x"))]
    assert "root" in told[0].out
    assert team in told[1].out
    assert (told[2].code, "there is: half, lead, root" in told[2].err) == (2, True)
    assert "has no admin_key" in run("whoami", cwd=tmp_path, env={**env, "GATEWAY_PROFILE": "half"}).err


def test_completion_is_offered_for_the_shell(tmp_path: Path) -> None:
    script = run("--show-completion", "bash", cwd=tmp_path)
    assert (script.code, script.err) == (0, "")
    assert "_GATEWAY_COMPLETE=bash_complete" in script.out  # what the script asks, with the words so far:
    asked = {"_GATEWAY_COMPLETE": "bash_complete", "COMP_CWORD": "2", "COMP_WORDS": "gateway keys l"}
    completed = "from gateway.cli import command_line; command_line()(prog_name='gateway')"
    done = subprocess.run(
        [sys.executable, "-c", completed],
        env=environment(asked),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["plain,list", "plain,label", "plain,limits"], "")


def test_try_gives_scripts_one_object(shell: Shell, key: dict[str, Any]) -> None:
    found = json.loads(shell("try", "hello", "--json", "--key", key["key"]).out)
    assert found["output_text"]
    assert found["usage"]["output_tokens"] > 0
    assert found["key"]["id"] == key["id"]
    assert found["id"].startswith("req_")


@pytest.mark.parametrize("name", ["..", ".", "../teams", "a/b"])
def test_a_name_that_can_be_none_is_not_sent(shell: Shell, name: str) -> None:
    done = shell("teams", "show", name)
    assert done.code == 2
    assert "not a valid name or id" in done.err


def test_an_outcome_that_is_none_is_refused_with_those_that_are(shell: Shell) -> None:
    done = shell("requests", "list", "--outcome", "refusedd")
    assert done.code == 1
    assert "client_left" in done.err
