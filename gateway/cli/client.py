"""The client of the admin API. Failures become messages for people.

AdminClient.from_environment()   the named profile (profiles.py); or GATEWAY_URL (http://127.0.0.1:8080) and
                                 GATEWAY_ADMIN_KEY (a key, or "file:PATH" of one); or the demo's ./data/admin-key
client.get/post/patch(path)      the answer's JSON; CliError for anything else
client.every(path)               all entries of a list, page by page
"""

from __future__ import annotations

import difflib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import quote, urlsplit

from gateway.cli.calls import TIMEOUT_S, Answer, Calls, NoAnswerError, NoConnectionError, UrlError
from gateway.cli.errors import USAGE, CliError
from gateway.cli.options import program
from gateway.cli.profiles import Profile, default_profile, named_profile, secret, signed_in_file
from gateway.config.environment_proxy import is_this_machine

DEFAULT_URL: Final = "http://127.0.0.1:8080"
DEMO_ADMIN_KEY: Final = Path("data/admin-key")
API: Final = "/admin/v1"

Json = dict[str, Any]


class AdminApiError(CliError):
    """The gateway refused. `code` is from its error catalogue; `field` names the invalid field, if there is one."""

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.field = field


def gateway_url() -> str:
    """Returns the URL of the gateway that the environment names, by default the demo's. Raises CliError."""
    if profile := named_profile():
        return profile.url.rstrip("/")
    if "GATEWAY_URL" not in os.environ and (profile := default_profile()):
        return profile.url.rstrip("/")
    return (os.environ.get("GATEWAY_URL") or DEFAULT_URL).rstrip("/")


class AdminClient:
    """A connection to one gateway's admin API. `key_from` says where the key was found, for messages."""

    def __init__(self, url: str, key: str, key_from: str) -> None:
        self._url = url.rstrip("/")
        self._key_from = key_from
        self._key = key
        self._calls = called(self._url, key)

    @classmethod
    def from_environment(cls) -> Self:
        """Connects to the gateway that the environment names, by default the demo.

        Raises CliError if no admin key is found.
        """
        if profile := named_profile():
            return cls._of(profile)
        if "GATEWAY_URL" not in os.environ and "GATEWAY_ADMIN_KEY" not in os.environ and (profile := default_profile()):
            return cls._of(profile)
        url = os.environ.get("GATEWAY_URL") or DEFAULT_URL
        if key := os.environ.get("GATEWAY_ADMIN_KEY"):
            path = key.removeprefix("file:")  # in a container, a secret is a file
            return cls(url, key.strip(), "GATEWAY_ADMIN_KEY") if path == key else cls(url, _key_in(Path(path)), path)
        if (signed_in := signed_in_file(url)).is_file():
            return cls(url, _key_in(signed_in), str(signed_in))
        # The demo's key is used for the demo on this machine only. It is not sent to another gateway.
        if is_loopback(url) and DEMO_ADMIN_KEY.is_file():
            return cls(url, _key_in(DEMO_ADMIN_KEY), str(DEMO_ADMIN_KEY))
        raise CliError(
            "no admin key: set GATEWAY_ADMIN_KEY, or use `gateway login` if the gateway has an identity provider, "
            f"or run this where the demo keeps its own in {DEMO_ADMIN_KEY}",
            exit_code=USAGE,
        )

    @classmethod
    def _of(cls, profile: Profile) -> Self:
        if not profile.admin_key:
            if (signed_in := signed_in_file(profile.url)).is_file():
                return cls(profile.url, _key_in(signed_in), str(signed_in))
            raise CliError(f"profile {profile.name!r} has no admin_key, and nobody is signed in", exit_code=USAGE)
        return cls(profile.url, secret(profile.admin_key), f"profile {profile.name!r}")

    @property
    def url(self) -> str:
        """The URL of the gateway."""
        return self._url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._calls.close()

    def get(self, path: str, params: Mapping[str, str] | None = None) -> Json:
        """Returns the object at a path."""
        return self._call("GET", path, params=params)

    def post(self, path: str, body: Json, *, idempotency_key: str | None = None) -> Json:
        """Creates an object. A repeat with the same idempotency key changes nothing; by default a fresh key is used."""
        key = idempotency_key or str(uuid.uuid4())
        return self._call("POST", path, body=body, headers={"idempotency-key": key}, repeatable=key)

    def patch(self, path: str, body: Json) -> Json:
        """Changes the given fields."""
        return self._call("PATCH", path, body=body)

    def delete(self, path: str) -> Json:
        """Deletes an object."""
        return self._call("DELETE", path)

    def events(self, params: Mapping[str, str] | None = None) -> Iterator[Json]:
        """Yields live events without end. After the first one, {}, every request is shown."""
        try:
            with (
                called(self._url, self._key, timeout_s=None) as calls,
                calls.opened("GET", f"{API}/events", params) as stream,
            ):
                if not stream.is_success:
                    self._read(stream.whole())
                for line in stream.lines():
                    if line.startswith("data:"):
                        yield json.loads(line.removeprefix("data:"))
        except (NoConnectionError, NoAnswerError) as error:
            raise CliError(f"no answer from {self._url} ({error})") from None

    def every(self, path: str, params: Mapping[str, str] | None = None) -> Iterator[Json]:
        """Yields all entries of a list."""
        cursor: str | None = None
        while True:
            page = self.get(path, {**(params or {}), **({"after": cursor} if cursor else {})})
            yield from page["data"]
            cursor = page.get("next")
            if not cursor:
                return

    def is_ready(self) -> bool:
        """Whether the gateway is ready to serve."""
        try:
            return self._calls.request("GET", "/readyz").is_success
        except (NoConnectionError, NoAnswerError):
            return False

    def _call(self, method: str, path: str, *, repeatable: str | None = None, **request: Any) -> Json:
        try:
            answer = self._calls.request(method, API + path, **request)
        except NoConnectionError as error:
            raise CliError(
                f"nothing answers at {self._url} ({error}); start the gateway, or name another one in GATEWAY_URL"
            ) from None
        except NoAnswerError as error:
            doubt = f"; it may be done: repeat it with --idempotency-key {repeatable}" if repeatable else ""
            raise CliError(f"no answer from {self._url} ({error}){doubt}") from None
        return self._read(answer)

    def _read(self, answer: Answer) -> Json:
        body = answer.json()
        if answer.is_success and isinstance(body, dict):
            return cast("Json", body)
        error = body.get("error") if isinstance(body, dict) else None
        if not isinstance(error, dict):
            raise CliError(f"{self._url} answered {answer.status} unlike a gateway: check the URL")
        code, message = str(error.get("code", "")), str(error.get("message", ""))
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise AdminApiError(
                code, f"the gateway at {self._url} does not know the admin key in {self._key_from}: {message}"
            )
        if code == "team_not_found":
            message += self._near(_quoted(message))
        raise AdminApiError(code, message, str(error.get("param") or ""))

    def _near(self, name: str) -> str:
        names = [team["name"] for team in self.every("/teams")]
        near = difflib.get_close_matches(name, [known for known in names if known != name], n=1)
        if near:
            return f" Is it {near[0]!r}?"
        return f" There is none yet: {program()} teams create NAME" if not names else ""


def called(url: str, key: str = "", *, timeout_s: float | None = TIMEOUT_S) -> Calls:
    """Returns a connection to a gateway, with a key if one is given. Raises CliError for an invalid URL."""
    try:
        return Calls(url, {"authorization": f"Bearer {key}"} if key else {}, timeout_s)
    except UrlError as error:
        raise CliError(f"GATEWAY_URL is not a valid URL: {error}", exit_code=USAGE) from None


def _key_in(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def team_path(team: str) -> str:
    """Returns the path of a team, by name or id."""
    return f"/teams/{segment(team)}"


def segment(text: str) -> str:
    """Returns text as one segment of a path. Raises CliError for text that cannot be a name or id."""
    if "/" in text or not text.strip("."):
        raise CliError(
            f"{text!r} is not a valid name or id: these contain no '/' and do not consist of dots", exit_code=USAGE
        )
    return quote(text, safe="")


def _quoted(message: str) -> str:
    """Returns the name that a message quotes, as in: There is no team 'serach'."""
    return message.partition("'")[2].rpartition("'")[0]


def is_loopback(url: str) -> bool:
    """Whether a URL points to this machine."""
    try:
        return is_this_machine(urlsplit(url).hostname or "")
    except ValueError:
        return False
