"""The search for secrets in every test's log finds one."""

import io

import pytest

from gateway.identity.api_keys import new_secret
from tests.support.gateway import ADMIN_KEY, UPSTREAM_KEY, StartGateway
from tests.support.log_scan import ScannedLog, leaks, secrets_of

# the same in every process, because it is part of test names
KEY, _ = new_secret("teamteamte", "keykeykeyk", bytes(range(64)))


@pytest.mark.parametrize("secret", [KEY, KEY.rpartition("-")[2], "a-password"])
def test_a_secret_in_a_log_is_found(secret: str) -> None:
    stream = io.StringIO()
    log = ScannedLog(stream, ["a-password"], quiet=True)
    log.add(KEY)
    log.write('{"level":"info","event":"good"}\n')
    assert (log.leaks, stream.getvalue()) == ([], "")
    log.write(f'{{"level":"error","event":"{secret}"}}\n')
    assert len(log.leaks) == 1
    assert secret in stream.getvalue()


def test_a_key_that_nobody_told_of_is_found_by_its_form() -> None:
    assert leaks(f"good\nbad {KEY}\n", []) == [f"bad {KEY}"]


def test_secrets_of_a_process_are_known_by_their_variables() -> None:
    assert secrets_of({"ADMIN_KEY": "long-enough", "X_KEY": "key", "PATH": "long-enough-too", "A_KEY": "env:B"}) == {
        "long-enough"
    }


def test_a_test_whose_gateway_logs_a_secret_fails(start: StartGateway) -> None:
    with pytest.raises(AssertionError, match="a secret is in the log"), start() as gateway:
        gateway.log.write(f'{{"level":"info","oops":"{UPSTREAM_KEY}"}}\n')


def test_requests_of_every_test_are_logged_and_searched(start: StartGateway) -> None:
    with start() as gateway:
        with gateway.http(ADMIN_KEY) as http:
            http.post("/v1/responses", json={})
        with gateway.http(gateway.new_key()) as http:
            http.post("/v1/responses", json={"model": "o4-mini", "input": "x"})
        gateway.run(_turn())
        assert gateway.log.lines >= 2


async def _turn() -> None:
    """One turn of the gateway's loop: the lines of one turn are written together."""
