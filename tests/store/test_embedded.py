"""The embedded store: one gateway per directory, and data that survives every way to end."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gateway.store.embedded import EmbeddedStore, EmbeddedStoreError
from gateway.store.store import Store, StoreSettings
from tests.support.servers import binaries
from tests.support.waiting import wait_until_sync


@pytest.fixture
def data_dir() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gw-") as name:  # shorter than tmp_path, so that the socket fits
        yield Path(name) / "data"


def client(embedded: EmbeddedStore) -> redis.Redis:
    return redis.Redis.from_url(embedded.url)


def is_running(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def test_data_survives_a_stop_and_a_start(data_dir: Path) -> None:
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        store.set("balance", "42")
    assert embedded.pid is None
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        assert store.get("balance") == b"42"


async def test_the_store_opens_its_url(data_dir: Path) -> None:
    with EmbeddedStore(data_dir) as embedded:
        store = await Store.open(StoreSettings(url=embedded.url))
        assert await store.run("PING") == b"PONG"
        await store.close()


def test_only_its_owner_reaches_it_and_no_port_is_open(data_dir: Path) -> None:
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        for path in data_dir.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        config = store.config_get("*")
        assert config["port"] == "0"
        assert (config["appendonly"], config["appendfsync"], config["save"]) == ("yes", "everysec", "")
        assert config["maxmemory-policy"] == "noeviction"


def test_starting_twice_changes_nothing_and_a_dead_server_can_be_started_again(data_dir: Path) -> None:
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        first = embedded.pid
        embedded.start()
        assert embedded.pid == first
        assert first is not None
        store.set("balance", "42")
        os.kill(first, signal.SIGKILL)
        wait_until_sync(lambda: embedded.pid is None)
        embedded.start()
        assert store.get("balance") == b"42"


def test_a_directory_serves_one_gateway_only(data_dir: Path) -> None:
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        with pytest.raises(EmbeddedStoreError, match=f"{data_dir} is in use by process {os.getpid()}$"):
            EmbeddedStore(data_dir).start()
        assert store.ping()
    with EmbeddedStore(data_dir):
        pass


GATEWAY = """
    import sys, time
    from pathlib import Path
    from gateway.store.embedded import EmbeddedStore
    embedded = EmbeddedStore(Path(sys.argv[1]))
    embedded.start()
    print(embedded.pid, flush=True)
    time.sleep(60)
"""


def gateway(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """Starts another gateway process with its embedded store. Returns it with the store's process id."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(GATEWAY), str(data_dir)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


def test_a_killed_gateway_takes_its_server_along_and_loses_nothing(data_dir: Path) -> None:
    process, server_pid = gateway(data_dir)
    with redis.Redis(unix_socket_path=str(data_dir / "valkey.sock")) as store:
        store.set("balance", "42")
    process.kill()
    process.wait()
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        assert store.get("balance") == b"42"
        assert embedded.pid != server_pid
    if sys.platform == "linux":
        wait_until_sync(lambda: not is_running(server_pid))


@pytest.mark.parametrize("hangs", [False, True], ids=["answers", "hangs"])
def test_a_server_that_was_left_behind_is_ended_first(data_dir: Path, hangs: bool) -> None:
    data_dir.mkdir()
    path = data_dir / "valkey.sock"
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(data_dir), "--appendonly", "yes"]
    orphan = subprocess.Popen([binaries()["valkey"], *options], stdout=subprocess.DEVNULL)
    wait_until_sync(path.exists)
    with redis.Redis(unix_socket_path=str(path)) as store:
        store.set("balance", "42")
        store.waitaof(1, 0, 5000)
    if hangs:
        orphan.send_signal(signal.SIGSTOP)
    with EmbeddedStore(data_dir, stop_timeout_s=0.5) as embedded, client(embedded) as store:
        assert store.get("balance") == b"42"
        assert store.info("server")["process_id"] == embedded.pid != orphan.pid
    assert orphan.wait(timeout=5) == (-signal.SIGKILL if hangs else 0)


def test_a_torn_tail_of_the_append_only_file_is_dropped(data_dir: Path) -> None:
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        store.set("balance", "42")
    [log] = data_dir.glob("appendonlydir/*.incr.aof")
    with log.open("ab") as tail:
        tail.write(b"*3\r\n$3\r\nSET\r\n$7\r\nbala")
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        assert store.get("balance") == b"42"


def test_a_socket_path_that_is_too_long_moves_to_the_temporary_directory(data_dir: Path) -> None:
    deep = data_dir / ("d" * 60) / ("e" * 60)
    with EmbeddedStore(deep) as embedded, client(embedded) as store:
        path = Path(embedded.url.removeprefix("unix://"))
        assert len(str(path)) <= 100
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert store.ping()
    assert not path.parent.exists()


def test_a_socket_directory_that_others_may_write_is_refused(data_dir: Path) -> None:
    embedded = EmbeddedStore(data_dir / ("d" * 60) / ("e" * 60))
    directory = Path(embedded.url.removeprefix("unix://")).parent
    directory.mkdir()
    directory.chmod(0o777)
    try:
        with pytest.raises(EmbeddedStoreError, match="this user's alone"):
            embedded.start()
    finally:
        directory.rmdir()


def test_a_path_with_special_characters_works(data_dir: Path) -> None:
    with EmbeddedStore(data_dir / "a b%41 é") as embedded, client(embedded) as store:
        assert store.ping()


def test_a_directory_that_cannot_be_made_is_a_clear_error(data_dir: Path) -> None:
    data_dir.write_text("a file")
    with pytest.raises(EmbeddedStoreError, match=f"^cannot use the data directory {data_dir}: File exists$"):
        EmbeddedStore(data_dir).start()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_a_clear_error(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o500)
    with pytest.raises(EmbeddedStoreError, match="Permission denied"):
        EmbeddedStore(data_dir).start()


def test_a_server_that_ends_at_its_start_is_quoted(data_dir: Path) -> None:
    with EmbeddedStore(data_dir):
        pass
    [manifest] = data_dir.glob("appendonlydir/*.manifest")
    manifest.write_text("nonsense\n")
    with pytest.raises(EmbeddedStoreError, match=r"ended at its start \(exit code 1\): .*manifest") as caught:
        EmbeddedStore(data_dir).start()
    assert "\n" not in str(caught.value)
    with pytest.raises(EmbeddedStoreError, match="ended at its start"):  # not "in use": the lock is free again
        EmbeddedStore(data_dir).start()


def test_a_missing_program_is_a_clear_error(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(EmbeddedStoreError, match=r"no Valkey server for this machine: .*riscv64"):
        EmbeddedStore(data_dir).start()


def test_a_server_that_is_not_ready_in_time_is_ended(data_dir: Path) -> None:
    with pytest.raises(EmbeddedStoreError, match=r"not ready within 0 s; see .*valkey\.log"):
        EmbeddedStore(data_dir, start_timeout_s=0.0).start()
    with EmbeddedStore(data_dir) as embedded, client(embedded) as store:
        assert store.ping()


def test_a_server_that_does_not_end_in_time_is_killed(data_dir: Path) -> None:
    embedded = EmbeddedStore(data_dir, stop_timeout_s=0.1)
    embedded.start()
    pid = embedded.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    embedded.stop()
    assert not is_running(pid)


def test_a_long_log_is_set_aside(data_dir: Path) -> None:
    data_dir.mkdir()
    log = data_dir / "valkey.log"
    log.write_bytes(b"x" * (1 << 20) + b"x")
    with EmbeddedStore(data_dir):
        assert log.stat().st_size < 1 << 20
        assert (data_dir / "valkey.log.1").stat().st_size > 1 << 20
