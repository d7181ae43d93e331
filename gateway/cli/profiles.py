"""Named gateways: `gateway --profile NAME`, or GATEWAY_PROFILE.

    ~/.config/gateway/profiles.toml  (XDG_CONFIG_HOME, or GATEWAY_PROFILES for another file)
        default = "production"
        [production]
        url = "https://gateway.example.com"
        admin_key = "file:PATH" or "env:NAME", never the key itself
        api_key = the same, for `gateway try`

A named profile takes precedence over GATEWAY_URL and GATEWAY_ADMIN_KEY, which take precedence over the file's default.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.cli.errors import USAGE, CliError

_FIELDS: Final = frozenset({"url", "admin_key", "api_key"})


@dataclass(frozen=True, slots=True)
class Profile:
    """One gateway. A field is "" if the file does not set it."""

    name: str
    url: str
    admin_key: str = ""
    api_key: str = ""


def named_profile() -> Profile | None:
    """Returns the profile that GATEWAY_PROFILE names, or None. Raises CliError."""
    name = os.environ.get("GATEWAY_PROFILE")
    return _profile(_read(must_exist=True), name) if name else None


def default_profile() -> Profile | None:
    """Returns the file's default profile, or None if there is no file or no default. Raises CliError."""
    profiles = _read(must_exist=False)
    name = profiles.get("default")
    return _profile(profiles, str(name)) if name else None


def signed_in_file(url: str) -> Path:
    """Returns the file with the admin key of `gateway login` for a gateway."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return _directory() / "signed-in" / f"{parts.hostname}-{port}"


def secret(reference: str) -> str:
    """Returns the key that "file:PATH" or "env:NAME" refers to. Raises CliError."""
    kind, _, place = reference.partition(":")
    if kind == "env" and place:
        if key := os.environ.get(place):
            return key.strip()
        raise CliError(f"the environment variable {place} is not set", exit_code=USAGE)
    if kind == "file" and place:
        try:
            return Path(place).expanduser().read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CliError(f"{place} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    raise CliError('a profile gives its keys as "env:NAME" or "file:PATH"', exit_code=USAGE)


def _path() -> Path:
    if given := os.environ.get("GATEWAY_PROFILES"):
        return Path(given)
    return _directory() / "profiles.toml"


def _directory() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "gateway"


def _read(*, must_exist: bool) -> dict[str, Any]:
    path = _path()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            raise CliError(f"there are no profiles: {path} does not exist", exit_code=USAGE) from None
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CliError(f"{path} cannot be read: {error}", exit_code=USAGE) from None


def _profile(profiles: dict[str, Any], name: str) -> Profile:
    fields = profiles.get(name)
    if not isinstance(fields, dict):
        known = ", ".join(sorted(key for key, value in profiles.items() if isinstance(value, dict))) or "none"
        raise CliError(f"there is no profile {name!r} in {_path()}; there is: {known}", exit_code=USAGE)
    wrong = [key for key, value in fields.items() if key not in _FIELDS or not isinstance(value, str)]
    if wrong or "url" not in fields:
        raise CliError(
            f"profile {name!r} in {_path()}: wrong {', '.join(wrong)}" if wrong else f"profile {name!r} has no url",
            exit_code=USAGE,
        )
    return Profile(name, **fields)
