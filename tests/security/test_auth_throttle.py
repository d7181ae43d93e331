"""The client's address, and how many wrong keys it may send."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError
from gateway.http.auth_throttle import MAX_ADDRESSES, AuthThrottle
from gateway.http.client_address import ClientAddresses
from tests.support.gateway import ADMIN_KEY, StartGateway

WRONG = {"authorization": "Bearer sk-gw-nobody"}


def scope(peer: str | None, *forwarded: str) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    return {"client": (peer, 1234) if peer is not None else None, "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),  # a stranger may claim anything
        ("192.0.2.1", [], "192.0.2.1"),
        ("192.0.2.1", ["203.0.113.9"], "203.0.113.9"),
        ("192.0.2.1", ["203.0.113.77, 203.0.113.9"], "203.0.113.9"),  # sent by the client itself
        ("192.0.2.1", ["203.0.113.77", "203.0.113.9, 192.0.2.8"], "203.0.113.9"),  # two trusted proxies
        ("192.0.2.1", ["192.0.2.5"], "192.0.2.5"),
        ("192.0.2.1", ["not an address"], "192.0.2.1"),
        ("2001:db8::1", ["2001:db8:ffff::1"], "2001:db8:ffff::1"),
        ("::ffff:198.51.100.7", [], "198.51.100.7"),  # over an IPv6 socket
        ("::ffff:192.0.2.1", ["203.0.113.9"], "203.0.113.9"),
        ("192.0.2.1", ["203.0.113.9:51234"], "203.0.113.9"),
        ("192.0.2.1", ["[2001:db8:ffff::1]:443"], "2001:db8:ffff::1"),
        ("192.0.2.1", ["[2001:db8:ffff::1]"], "2001:db8:ffff::1"),
        ("192.0.2.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("192.0.2.1", ["203.0.113.77", "::ffff:192.0.2.8"], "203.0.113.77"),
        ("192.0.2.1", ["203.0.113.9:port"], "192.0.2.1"),
        (None, [], ""),
    ],
)
def test_the_address_is_what_a_trusted_proxy_saw(peer: str | None, forwarded: list[str], address: str) -> None:
    assert ClientAddresses(["192.0.2.0/24", "2001:db8::1"]).of(scope(peer, *forwarded)) == address


@given(st.lists(st.text(alphabet="0123456789.,: abcdef", max_size=20), max_size=3))
def test_whatever_is_forwarded_there_is_an_address(forwarded: list[str]) -> None:
    assert ClientAddresses(["192.0.2.0/24"]).of(scope("192.0.2.1", *forwarded))


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def throttled(throttle: AuthThrottle, peer: str, code: str = "invalid_api_key") -> GatewayError:
    return throttle.throttle(scope(peer), GatewayError(code, "no"))


def test_failures_beyond_the_bound_are_told_when_to_come_back() -> None:
    clock = Clock()
    throttle = AuthThrottle(ClientAddresses([]), 3, clock)
    assert [throttled(throttle, "198.51.100.7").code for _ in range(3)] == ["invalid_api_key"] * 3
    clock.now_s = 20.0
    refused = throttled(throttle, "198.51.100.7")
    assert (refused.status, refused.code, refused.wait_ms) == (429, "too_many_failures", 40_000)
    assert throttled(throttle, "198.51.100.8").code == "invalid_api_key", "another address"
    clock.now_s = 60.0
    assert throttled(throttle, "198.51.100.7").code == "invalid_api_key", "another minute"


def test_ipv4_clients_of_an_ipv6_socket_are_counted_one_by_one() -> None:
    throttle = AuthThrottle(ClientAddresses([]), 1)
    assert [throttled(throttle, f"::ffff:198.51.100.{number}").status for number in (1, 2, 1)] == [401, 401, 429]
    assert throttled(throttle, "198.51.100.2").status == 429, "the same address over another socket"


def test_a_trusted_network_may_be_written_mapped() -> None:
    addresses = ClientAddresses(["::ffff:192.0.2.0/120"])
    assert addresses.of(scope("192.0.2.1", "203.0.113.9")) == "203.0.113.9"
    assert addresses.of(scope("198.51.100.9", "203.0.113.9")) == "198.51.100.9"


def test_other_errors_are_no_failures() -> None:
    throttle = AuthThrottle(ClientAddresses([]), 1)
    assert {throttled(throttle, "198.51.100.7", "missing_field").code for _ in range(5)} == {"missing_field"}


def test_an_ipv6_host_is_its_network() -> None:
    throttle = AuthThrottle(ClientAddresses([]), 1)
    assert [throttled(throttle, f"2001:db8::{number}").status for number in (1, 2)] == [401, 429]
    assert throttled(throttle, "2001:db8:0:1::1").status == 401


def test_the_memory_of_addresses_is_bounded() -> None:
    throttle = AuthThrottle(ClientAddresses([]), 1)
    for number in range(MAX_ADDRESSES + 10):
        throttled(throttle, f"{number >> 16}.{number >> 8 & 255}.{number & 255}.1")
    assert len(throttle._failures) == MAX_ADDRESSES  # noqa: SLF001 - the bound is on what is kept inside


def test_wrong_keys_are_throttled_and_a_valid_one_never_is(start: StartGateway) -> None:
    with start(server={"port": 0, "auth_failures_per_minute": 3}) as gateway:
        with gateway.http() as http:
            answers = [http.post("/v1/responses", json={}, headers=WRONG) for _ in range(3)]
            answers += [http.get("/v1/models", headers=WRONG), http.get("/admin/v1/teams", headers=WRONG)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
        assert answers[-1].json()["error"]["code"] == "too_many_failures"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        with gateway.http(gateway.new_key()) as http:
            assert http.post("/v1/responses", json={"model": "o4-mini", "input": "x"}).status_code == 200
            assert http.get("/v1/models").status_code == 200
        with gateway.http(ADMIN_KEY) as http:
            assert http.get("/admin/v1/teams").status_code == 200


def test_behind_a_trusted_proxy_each_client_has_its_own_count(start: StartGateway) -> None:
    with (
        start(server={"port": 0, "auth_failures_per_minute": 1, "trusted_proxies": ["127.0.0.0/8"]}) as gateway,
        gateway.http() as http,
    ):
        statuses = [
            http.post("/v1/responses", json={}, headers={**WRONG, "x-forwarded-for": client}).status_code
            for client in ("203.0.113.1", "203.0.113.2", "203.0.113.1")
        ]
    assert statuses == [401, 401, 429]
