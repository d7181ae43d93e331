"""A client of the admin API, and names that no other team has: the gateway is everybody's."""

import uuid
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.support.admins import admin_client
from tests.support.gateway import RunningGateway


@pytest.fixture
def admin(gateway: RunningGateway) -> Iterator[httpx.Client]:
    """A client with the admin key, at /admin/v1."""
    with admin_client(gateway) as client:
        yield client


@pytest.fixture
def new_name() -> Callable[[], str]:
    """Returns names that no other team has."""
    return lambda: f"team {uuid.uuid4().hex[:12]}"
