"""[notices] and [recipients.NAME]: what is refused, and that no message shows a secret."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.config.errors import SettingsError, Source
from gateway.config.notice_settings import signing_key
from gateway.config.settings import Settings, settings_from
from tests.support.noticing import KEY, SECRET

HOOK = "https://hooks.example/secret-path"
STANDARD = {"webhook": HOOK, "secrets": ["env:HOOK_SECRET"]}
SMTP = {"smtp_host": "mail.example", "smtp_from": "gateway@example.com"}


@pytest.fixture(autouse=True)
def _secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDER_KEY", "key")
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    monkeypatch.setenv("SHORT_SECRET", "whsec_c2hvcnQ=")
    monkeypatch.setenv("PLAIN_SECRET", "secret-that-is-no-base64-of-anything")
    monkeypatch.setenv("SMTP_PASSWORD", "password-of-the-server")


def settings(**sections: Any) -> Settings:
    upstreams = {"simulator": {"base_url": "http://127.0.0.1:1/v1", "api_keys": ["env:PROVIDER_KEY"]}}
    routes = [{"model": "*", "upstreams": ["simulator"]}]
    return settings_from({"upstreams": upstreams, "routes": routes, **sections}, Source("file"))


def problems(**sections: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        settings(**sections)
    return "\n".join(refused.value.problems)


def test_a_recipient_is_read() -> None:
    found = settings(recipients={"ops": STANDARD})
    ops = found.recipients["ops"]
    assert ops.webhook is not None
    assert ops.webhook.get_secret_value() == HOOK
    assert signing_key(ops.secrets[0].get_secret_value()) == KEY
    assert (ops.budget_percent, ops.days_left, ops.teams) == ((50, 80, 100), (7, 1), ("*",))
    assert HOOK not in repr(found)


@pytest.mark.parametrize(
    ("recipient", "told"),
    [
        pytest.param({}, "either a webhook or mail", id="nothing"),
        pytest.param({**STANDARD, "mail": ["a@example.com"]}, "either a webhook or mail", id="both"),
        pytest.param({"webhook": HOOK}, "is signed", id="no secret"),
        pytest.param({"webhook": HOOK, "secrets": ["env:SHORT_SECRET"]}, "24 to 64 bytes", id="short secret"),
        pytest.param({"webhook": HOOK, "secrets": ["env:PLAIN_SECRET"]}, "24 to 64 bytes", id="no base64"),
        pytest.param({"webhook": HOOK, "secrets": [SECRET]}, "env:NAME", id="secret in the file"),
        pytest.param({**STANDARD, "webhook": "ftp://hooks.example/"}, "a webhook is a URL", id="ftp"),
        pytest.param({**STANDARD, "webhook": "https://user:word@hooks.example/"}, "a webhook is a URL", id="user"),
        pytest.param({**STANDARD, "webhook": "https://hooks.example:99999/"}, "a webhook is a URL", id="port"),
        pytest.param({"mail": ["a@example.com"]}, "set notices.smtp_host", id="no server"),
        pytest.param({**STANDARD, "budget_percent": [0]}, "budget_percent[0]", id="0 percent"),
        pytest.param({**STANDARD, "budget_percent": [101]}, "budget_percent[0]", id="101 percent"),
        pytest.param({**STANDARD, "balance_below_usd": ["0"]}, "more than 0 USD", id="nothing left"),
        pytest.param({**STANDARD, "days_left": [0]}, "days_left[0]", id="0 days"),
    ],
)
def test_a_recipient_that_cannot_work_is_refused(recipient: dict[str, Any], told: str) -> None:
    found = problems(recipients={"ops": recipient})
    assert told in found
    for secret in (SECRET, "secret-path", "secret-that-is-no"):
        assert secret not in found


@pytest.mark.parametrize(
    ("notices", "told"),
    [
        pytest.param({**SMTP, "smtp_tls": "none", "smtp_password": "env:SMTP_PASSWORD"}, "smtp_tls", id="in the clear"),
        pytest.param({"smtp_host": "mail.example"}, "needs smtp_from", id="no sender"),
        pytest.param({**SMTP, "smtp_from": "a@b\r\nBcc: c@d"}, "ops@example.com", id="two lines"),
        pytest.param({"timeout_s": 61}, "timeout_s", id="long timeout"),
        pytest.param({"max_waiting": 0}, "max_waiting", id="no room"),
    ],
)
def test_notices_that_cannot_work_are_refused(notices: dict[str, Any], told: str) -> None:
    found = problems(notices=notices)
    assert told in found
    assert "password-of-the-server" not in found


def test_there_are_50_recipients_at_most() -> None:
    assert "recipients" in problems(recipients={f"r{number}": STANDARD for number in range(51)})
