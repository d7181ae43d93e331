"""What every test shares: settings of hypothesis and of the interpreter, and servers that a test process starts once.

| fixture   | gives                                                                        | lives as long as |
|-----------|------------------------------------------------------------------------------|------------------|
| store     | a Valkey: each test makes teams of its own, and leaves the server as it is    | the test process |
| upstream  | the base URL of a simulator                                                  | the test process |
| post_only | a provider that only answers POST                                            | the test module  |
| provider  | the same, without the answers that earlier tests have left                   | the test         |
| gateway   | a gateway with the default settings, on these two                            | the test process |
| start     | starts a gateway on these two with settings of its own                       | the test         |
| own_store | a Valkey to stop, to fill, or to count in                                    | the test         |

A folder's conftest.py gives `store` or `gateway` another life or other settings, where its tests need that.
"""

import gc
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.effort import IN_CI, effort
from tests.support.gateway import RunningGateway, StartGateway, running_gateway, simulator
from tests.support.post_only_provider import PostOnlyProvider
from tests.support.servers import Server, valkey_server

# How long an example takes depends on the machine, and a property may use a test's fixtures in all of its examples.
settings.register_profile(
    "all",
    max_examples=effort(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("fast", settings.get_profile("all"), max_examples=10)  # make test-fast
settings.register_profile("ci", settings.get_profile("all"), derandomize=True, database=None, print_blob=True)
settings.load_profile("ci" if IN_CI else "all")

# Tests start some hundred Python processes, besides those that are forks (tests/support/fork_server.py). Where compiled
# modules are not kept (images often say so), each of them compiles every library anew: 4.6 s of CPU time, not 1.3 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# Collecting the tests makes a million objects that stay. The garbage collector examined them again and again, which
# took a third of the time. With Python's own thresholds it took a fifteenth of what the tests then compute.
gc.disable()


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a request may cost is counted first, while no other test's servers are in the process."""
    items.sort(key=lambda item: "speed" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def _one_authority() -> Iterator[None]:
    """One TLS context for all clients of httpx that name none.

    Each would load all authorities that browsers trust, in 25 ms of CPU time, or one, in 2 ms; tests make thousands.
    """
    authority = str(Path(__file__).parent / "data" / "authority.pem")
    make = ssl.create_default_context
    shared = make(cafile=authority)

    def context(*arguments: Any, **named: Any) -> ssl.SSLContext:
        return shared if not arguments and named == {"cafile": authority} else make(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", authority)
        patch.setattr(ssl, "create_default_context", context)
        yield


@pytest.fixture(scope="session")
def store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture(scope="session")
def upstream() -> Iterator[str]:
    with simulator() as url:
        yield url


@pytest.fixture(scope="session")
def gateway(store: Server, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    many = {"sign_in_attempts": 1000}  # every test signs in from the one address
    with running_gateway(store.url, upstream, tmp_path_factory.mktemp("gateway"), admin=many) as running:
        yield running


@pytest.fixture(scope="module")
def post_only() -> Iterator[PostOnlyProvider]:
    with PostOnlyProvider.serving() as serving:
        yield serving


@pytest.fixture
def provider(post_only: PostOnlyProvider) -> PostOnlyProvider:
    """The provider, with no answer that a test before this one has left."""
    post_only.forget()
    return post_only


@pytest.fixture
def own_store() -> Iterator[Server]:
    with valkey_server() as server:
        yield server


@pytest.fixture
def start(store: Server, upstream: str, tmp_path: Path) -> StartGateway:
    """`with start(server={...}) as gateway`: sections of the settings as keywords."""

    def start(**sections: Any) -> AbstractContextManager[RunningGateway]:
        return running_gateway(store.url, upstream, tmp_path, **sections)

    return start
