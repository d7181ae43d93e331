"""How a command fails: one line for a person, and an exit code for a script."""

from __future__ import annotations

from typing import Final

REFUSED: Final = 1
USAGE: Final = 2


class CliError(Exception):
    """The command failed. `lines` say why, one problem per line."""

    def __init__(self, *lines: str, exit_code: int = REFUSED) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines
        self.exit_code = exit_code
