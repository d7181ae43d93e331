"""The command line of a user who has set the two variables.

It runs in this process, because a start takes half a second.
"""

import json
import sys
from typing import Any

import pytest

from gateway.cli import main
from tests.support.gateway import ADMIN_KEY, RunningGateway
from tests.support.program import Ended


class Shell:
    """`shell("teams", "list")` -> code, out, err; `shell.json(...)`: the parsed answer of a command that must work."""

    def __init__(self, gateway: RunningGateway, capsys: pytest.CaptureFixture[str], admin_key: str = ADMIN_KEY) -> None:
        self._env = {"GATEWAY_URL": gateway.url, "GATEWAY_ADMIN_KEY": admin_key, "GATEWAY_PROFILE": ""}
        self._capsys = capsys

    def __call__(self, *words: str, **env: str) -> Ended:
        self._capsys.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["gateway", *words])
            for name, value in (self._env | env).items():
                patch.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                main()
        out, err = self._capsys.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    def json(self, *words: str) -> Any:
        done = self(*words, "--json")
        assert (done.code, done.err) == (0, ""), done
        return json.loads(done.out)
