"""`gateway init`: what it writes can be checked and served as it stands."""

from __future__ import annotations

import stat
import subprocess
import tomllib
from pathlib import Path

import httpx
import pytest

from tests.support.program import PROGRAM, ROOT, environment, run, started
from tests.support.waiting import wait_until_sync


def values(path: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def answered(text: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "init", *words],
        cwd=cwd, env=environment(), input=text, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def test_what_it_writes_for_the_simulator_serves_with_a_team_and_a_key(tmp_path: Path) -> None:
    made = run("init", "--provider", "simulator", "--yes", cwd=tmp_path)
    assert (made.code, made.err) == (0, "")
    assert stat.S_IMODE((tmp_path / "data" / "admin-key").stat().st_mode) == 0o600
    assert run("check", cwd=tmp_path).code == 0
    with started("serve", "--port", "0", cwd=tmp_path) as program:
        url = program.wait_for("Gateway: ").split()[1]

        def created() -> bool:
            env = {"GATEWAY_URL": url.removesuffix("/v1")}
            return run("teams", "create", "first", "--credits", "10", cwd=tmp_path, env=env).code == 0

        wait_until_sync(created, what="the printed command makes a team")
        env = {"GATEWAY_URL": url.removesuffix("/v1")}
        key = (
            run("keys", "create", "first", "--name", "laptop", cwd=tmp_path, env=env).out.split("sk-gw-")[1].split()[0]
        )
        answer = httpx.post(
            f"{url}/responses",
            headers={"authorization": f"Bearer sk-gw-{key}"},
            json={"model": "o4-mini", "input": "Hi"},
            trust_env=False,
        )
        assert answer.json()["status"] == "completed"
        assert program.stop() == 0


def test_it_asks_for_provider_key_and_store(tmp_path: Path) -> None:
    done = answered("openai\nenv:MY_KEY\nredis://store:6379/0\n", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "export MY_KEY=" in done.stdout
    written = values(tmp_path / "gateway.toml")
    assert written["upstreams"]["openai"] == {
        "base_url": "https://api.openai.com/v1", "api_keys": ["env:MY_KEY"],
    }  # fmt: skip
    assert written["store"]["url"] == "redis://store:6379/0"


def test_an_answer_that_nobody_gives_is_the_default(tmp_path: Path) -> None:
    done = answered("", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert values(tmp_path / "gateway.toml")["store"]["url"] == "embedded"
    assert "export SIRAYA_API_KEY=" in done.stdout


def test_a_url_is_a_provider_too(tmp_path: Path) -> None:
    done = run("init", "-y", "--provider", "https://llm.example/v1", "--key", "env:K", cwd=tmp_path)
    assert done.code == 0, done.err
    assert run("check", cwd=tmp_path, env={"K": "k"}).code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--key", "sk-the-secret-itself"), "never the key itself"),
        (("--provider", "nobody"), "--provider is one of siraya, openai, openrouter, simulator"),
        (("--provider", "https://llm.example/v1/responses"), "ends before /responses"),
        (("--store", "redis://:hunter2@store"), "set store.password to a reference"),
        (("--store", "http://store"), "store.url: unknown scheme"),
    ],
)
def test_an_answer_that_cannot_be_is_said_and_nothing_is_written(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    done = run("init", "--yes", *words, cwd=tmp_path)
    assert done.code in (1, 2)
    assert said in done.err
    assert "hunter2" not in done.err
    assert "the-secret" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_unless_it_is_forced(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("# mine\n")
    refused = run("init", "--yes", cwd=tmp_path)
    assert (refused.code, refused.err.count("\n")) == (1, 1)
    assert (tmp_path / "gateway.toml").read_text() == "# mine\n"
    assert run("init", "--yes", "--force", cwd=tmp_path).code == 0
    assert (tmp_path / "gateway.toml").read_text() != "# mine\n"


def test_the_example_is_the_one_of_the_source(tmp_path: Path) -> None:
    assert run("init", "--example", cwd=tmp_path).out == (ROOT / "gateway.example.toml").read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == []
