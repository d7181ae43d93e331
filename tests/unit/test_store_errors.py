"""Error replies of a store: what is an outage, what a mistake, what a redirect."""

import pytest

from gateway.store.errors import Redirect, StoreUnavailable, parse_redirect, reply_exception


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("READONLY You can't write against a read only replica. script: on @user_script:1.", "READONLY"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("ERR Error running script (call to f_1): @user_script:1: -OOM command not allowed", "OOM"),
        ("LOADING Valkey is loading the dataset in memory", "LOADING"),
        ("MASTERDOWN Link with MASTER is down", "MASTERDOWN"),
        ("MISCONF Errors writing to the AOF file", "MISCONF"),
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
        ("CLUSTERDOWN The cluster is down", "CLUSTERDOWN"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN"),
        ("BUSY Valkey is busy running a script.", "BUSY"),
        ("NOAUTH Authentication required.", "NOAUTH"),
        ("NOPERM User gateway has no permissions to run the 'evalsha' command", "NOPERM"),
        ("ERR ACL failure in script: User gateway has no permissions to run the 'set' command", "NOPERM"),
        ("ERR max number of clients reached", "connect"),
        ("ERR value is not an integer: BUSY or OOM", None),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", None),
        ("BUSYGROUP Consumer Group name already exists", None),
    ],
)
def test_error_replies_are_outages_or_mistakes(message: str, reason: str | None) -> None:
    fault = reply_exception(message)
    assert (fault.reason if isinstance(fault, StoreUnavailable) else None) == reason


@pytest.mark.parametrize(
    ("message", "redirect"),
    [
        ("MOVED 3999 127.0.0.1:6381", Redirect(3999, "127.0.0.1", 6381, asking=False)),
        ("ASK 1 [::1]:7", Redirect(1, "::1", 7, asking=True)),
        ("MOVED 1 :7", Redirect(1, "", 7, asking=False)),
        ("MOVED x y", None),
        ("ERR no", None),
    ],
)
def test_redirects_are_read(message: str, redirect: Redirect | None) -> None:
    assert parse_redirect(message) == redirect
