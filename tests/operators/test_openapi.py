"""The admin API's OpenAPI document, and random requests generated from it: never a 500, always the gateway's format."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from gateway.api.admin.access import RULES
from gateway.api.admin.config import admin_openapi
from gateway.api.admin.sign_in import OPEN
from gateway.app import build_app
from gateway.errors import CATALOGUE
from tests.support.admins import admin_client, done, new_team
from tests.support.effort import IN_CI
from tests.support.gateway import ADMIN_KEY, RunningGateway, gateway_settings

DOCUMENT = admin_openapi(
    build_app(gateway_settings("redis://127.0.0.1:1", "http://127.0.0.1:1", Path("data"))).app.routes
)
ENDLESS = "/admin/v1/events"
schema = schemathesis.openapi.from_dict(DOCUMENT).exclude(path=ENDLESS)
# Boundary values of every field, some two thousand. They are made while tests are collected, in each test process.
schema.config.phases.coverage.enabled = IN_CI


def test_the_document_is_served_and_has_every_route_and_nothing_else(gateway: RunningGateway) -> None:
    with admin_client(gateway) as root:
        served = done(root.get("/openapi.json"))
    assert served == DOCUMENT
    described = {
        f"{verb.upper()} {path.removeprefix('/admin/v1')}" for path, item in served["paths"].items() for verb in item
    }
    assert described == {*RULES, *OPEN}


def test_every_body_has_an_example_that_fits_its_schema() -> None:
    schemas: dict[str, Any] = DOCUMENT["components"]["schemas"]
    bodies = {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        for item in DOCUMENT["paths"].values()
        for operation in item.values()
        if "requestBody" in operation
    }
    assert len(bodies) == 10
    for name in bodies | {"Error"}:
        for example in schemas[name]["examples"]:
            jsonschema.validate(example, {**schemas[name], "components": {"schemas": schemas}})


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.timeout(120)
def test_whatever_is_asked_the_answer_is_no_failure_and_in_the_format(case: Any, gateway: RunningGateway) -> None:
    answer = case.call(base_url=gateway.url, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=20)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        error = answer.json()["error"]
        kind = CATALOGUE[error["code"]]
        assert (kind.status, kind.type) == (answer.status_code, error["type"])
        assert isinstance(error["param"], str)
        assert error["message"]


@pytest.mark.parametrize(
    "path", ["/requests?after=0", "/audit?after=0-0", "/teams/{team}/journal?to=1970-01-01", "/usage?to=1970-01-01"]
)
def test_nothing_is_older_than_the_beginning(gateway: RunningGateway, path: str) -> None:
    with admin_client(gateway) as root:
        assert done(root.get(path.format(team=new_team(root)["id"])))["data"] == []
