"""A gateway of real processes with a larger configuration than `tests.support.processes` writes."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port
from tests.support.processes import CONFIG, READY, UPSTREAM_KEY, GatewayProcess
from tests.support.program import Program, environment, started


@dataclass(frozen=True)
class Configured:
    """A gateway's directory and port, which stay when it is restarted."""

    directory: Path
    port: int
    workers: int

    @property
    def file(self) -> Path:
        """Its configuration."""
        return self.directory / "gateway.toml"

    @contextlib.contextmanager
    def serving(self, *, path: Path | None = None, env: Mapping[str, str] | None = None) -> Iterator[GatewayProcess]:
        """Starts it and waits until every worker is ready.

        `path` precedes Python's module path; `env` adds variables.
        """
        with self.program(path, env) as program:
            program.wait_for(READY, count=self.workers)
            yield GatewayProcess(f"http://127.0.0.1:{self.port}", program)

    def program(
        self, path: Path | None = None, env: Mapping[str, str] | None = None
    ) -> contextlib.AbstractContextManager[Program]:
        """Starts it without waiting until it is ready."""
        variables = {"TEST_UPSTREAM_KEY": UPSTREAM_KEY, **(env or {})}
        if path is not None:
            variables["PYTHONPATH"] = f"{path}:{environment()['PYTHONPATH']}"
        return started("serve", "--config", str(self.file), cwd=self.directory, env=variables)


def configured(
    store_url: str, upstream_url: str, directory: Path, *, workers: int = 1, server: str = "", more: str = ""
) -> Configured:
    """Writes a configuration. `server` is added to that section and replaces what is there.

    `more` is written after all sections.
    """
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    text = CONFIG.format(
        port=port, workers=workers, store_url=store_url, upstream_url=upstream_url, hold_ttl_s=15.0, route=""
    )
    own = {line.partition("=")[0] for line in server.splitlines()}
    text = "\n".join(line for line in text.splitlines() if line.partition("=")[0] not in own)
    text = text.replace("[store]", f"{server}\n[store]", 1)
    (directory / "gateway.toml").write_text(f"{text}\n{more}\n", encoding="utf-8")
    return Configured(directory, port, workers)
