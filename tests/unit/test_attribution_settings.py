"""[attribution], and that its header stays here."""

from pathlib import Path

import pytest

from tests.unit.test_settings import GOOD, problems


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_PROVIDER_KEY", "provider-key")


@pytest.mark.parametrize(
    "header", ["x-gateway-tags", "x-gateway-end-user", "x-gateway-t*", "x-gateway-*", "authorization"]
)
def test_the_gateway_s_own_headers_are_not_forwarded(tmp_path: Path, header: str) -> None:
    text = GOOD.replace("[[routes]]", f'forward_headers = ["{header}"]\n[[routes]]')
    assert any("never goes to an upstream" in problem for problem in problems(tmp_path, text))


@pytest.mark.parametrize(
    ("attribution", "told"),
    [
        ('end_users = "hashed"', "needs hash_key"),
        ('end_users = "hashed"\nhash_key = "env:SHORT_KEY"', "at least 32 characters"),
        ("max_values = 0", "max_values"),
        ("max_values = 10000\nmax_names = 3", "at most 20000"),
    ],
)
def test_an_attribution_that_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribution: str, told: str
) -> None:
    monkeypatch.setenv("SHORT_KEY", "too-short")
    found = "\n".join(problems(tmp_path, f"[attribution]\n{attribution}\n{GOOD}"))
    assert told in found
    assert "too-short" not in found
