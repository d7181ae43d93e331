"""The spool's promises to the disk: what it has taken outlives a power cut, and what is refused is put aside first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.ledger.spool import Spool
from tests.support.ledgers import DAY_S

ROOM = 100_000


def only_file(directory: Path) -> Path:
    [file] = directory.glob("*.spool")
    return file


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """What the operating system was told to make durable: each path's size at the last time."""
    found: dict[Path, int] = {}
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        found[Path(f"/proc/self/fd/{descriptor}").readlink()] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", noted)
    return found


async def test_a_line_and_the_name_of_its_file_are_on_disk_when_the_spool_is_closed(
    synced: dict[Path, int], tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", ROOM, DAY_S)
    for name in ("a", "b"):
        spool.add("settle_v2", ["k"], [name])
    await spool.close()
    file = only_file(tmp_path / "spool")
    # The file's first name is another: it is renamed once it is locked, and then the directory is made durable.
    lines = [size for path, size in synced.items() if path.parent == file.parent and path != file.parent]
    assert lines == [file.stat().st_size]
    assert file.parent in synced


async def test_a_refused_line_that_cannot_be_put_aside_stays_in_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOM, DAY_S)
    spool.add("settle_v2", ["k"], ["a"])
    await spool.close()
    file = only_file(tmp_path)
    file.with_suffix(".refused").mkdir()  # in the way

    async def refuse(_script: str, _keys: list[str], _args: list[str]) -> None:
        raise LookupError("no version knows this script")

    before = file.read_bytes()
    await spool.replay(refuse)
    assert file.read_bytes() == before
    file.with_suffix(".refused").rmdir()
    await spool.replay(refuse)
    assert not file.exists()
    assert file.with_suffix(".refused").read_bytes() == before
