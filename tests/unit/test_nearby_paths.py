"""A 404 names the path that was meant."""

import pytest

from gateway.api.nearby_paths import nearby_path


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/responses", "/v1/responses"),
        ("/v1/v1/responses", "/v1/responses"),
        ("/v1/responses/", "/v1/responses"),
        ("//v1/responses", "/v1/responses"),
        ("/v1//responses", "/v1/responses"),
        ("/v1/v1/v1//models/", "/v1/models"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/responses/resp_1/cancel", "/v1/responses/resp_1/cancel"),
        ("/healthz/", "/healthz"),
        ("/v1/responses", None),
        ("/v1/nowhere", None),
        ("/", None),
    ],
)
def test_the_path_that_was_meant(path: str, meant: str | None) -> None:
    assert nearby_path(path) == meant
