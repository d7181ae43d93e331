"""A program that is started as a fork (tests/support/fork_server.py) is as real as a process of its own."""

import json
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.fork_server import Forked
from tests.support.program import environment, is_alive, start
from tests.support.waiting import wait_until_sync

# What a program can see of how it was started.
FACTS = """
import gc, json, os, random, resource, signal, sys, threading
handlers = {number.name: str(signal.getsignal(number)) for number in signal.Signals}
handlers["SIGINT"] = signal.getsignal(signal.SIGINT) is signal.default_int_handler
facts = {
    "arguments": sys.argv, "path": sys.path, "directory": os.getcwd(), "environment": dict(os.environ),
    "files": sorted(os.listdir("/proc/self/fd"), key=int)[:-1], "input": os.readlink("/proc/self/fd/0"),
    "handlers": handlers, "blocked": [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))],
    "threads": threading.active_count(), "main": sys.modules["__main__"].__dict__ is globals(),
    "encoding": [stream.encoding for stream in (sys.stdin, sys.stdout, sys.stderr)],
    "buffered": [stream.line_buffering for stream in (sys.stdout, sys.stderr)],
    "flags": str(sys.flags), "warnings": sys.warnoptions, "collector": gc.get_threshold(), "umask": os.umask(0),
    "files_limit": resource.getrlimit(resource.RLIMIT_NOFILE), "group": os.getpgrp(),
}
print(json.dumps(facts))
print(random.random(), file=sys.stderr)
sys.exit(3)
"""


def ended(words: list[str], cwd: Path, *, is_fork: bool, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = start(words, cwd, environment(env), out, err, is_fork=is_fork)
        assert isinstance(process, Forked) == is_fork
        code = process.wait(timeout=100)
        out.seek(0)
        err.seek(0)
        return code, out.read(), err.read()


def facts(words: list[str], cwd: Path, *, is_fork: bool) -> dict[str, Any]:
    code, out, err = ended(words, cwd, is_fork=is_fork, env={"TEST_VARIABLE": "with\na line"})
    assert out, err
    found: dict[str, Any] = json.loads(out)
    return {**found, "code": code}


# A program that spawns a process which tells these, as the supervisor spawns its workers.
SPAWNING = f"""
import multiprocessing, sys
if __name__ == "__main__":
    spawned = multiprocessing.get_context("spawn").Process(target=exec, args=({FACTS!r}, {{}}))
    spawned.start()
    spawned.join()
    sys.exit(spawned.exitcode)
"""


@pytest.mark.parametrize("option", ["-c", "-m"])
@pytest.mark.parametrize("program", [FACTS, SPAWNING], ids=["itself", "what it spawns"])
def test_a_fork_sees_what_a_process_of_its_own_sees(tmp_path: Path, program: str, option: str) -> None:
    (tmp_path / "telling.py").write_text(program, encoding="utf-8")
    words = [option, program if option == "-c" else "telling", "one", "--two=2"]
    fork, own = (facts(words, tmp_path, is_fork=is_fork) for is_fork in (True, False))
    assert fork == own
    assert fork["code"] == 3


@pytest.mark.parametrize("is_fork", [True, False])
@pytest.mark.parametrize(
    ("program", "code", "told"),
    [
        ("raise ValueError('of the process')", 1, "ValueError: of the process"),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
        ("import atexit; atexit.register(print, 'at the end')", 0, ""),
    ],
)
def test_what_a_fork_spawns_ends_as_a_spawned_process_ends(
    tmp_path: Path, is_fork: bool, program: str, code: int, told: str
) -> None:
    spawning = SPAWNING.replace(repr(FACTS), repr(program)).replace("exit(spawned", "exit('code %d' % spawned")
    parent = f"import atexit; atexit.register(print, 'end of the parent'){spawning}"
    found, out, err = ended(["-c", parent], tmp_path, is_fork=is_fork)
    assert (found, out.count("end of the parent")) == (1, 1)
    assert told in err
    assert err.endswith(f"code {code}\n")
    assert ("at the end" in out) == ("atexit" in program)


def test_each_fork_has_a_chance_of_its_own(tmp_path: Path) -> None:
    assert len({ended(["-c", FACTS], tmp_path, is_fork=True)[2] for _ in range(3)}) == 3


def test_a_fork_keeps_no_file_of_another_one(tmp_path: Path) -> None:
    waiting = ["-c", "import sys, time; print('here', flush=True); time.sleep(3600)"]
    with (tmp_path / "out").open("w") as out, tempfile.TemporaryFile("w+") as err:
        process = start(waiting, tmp_path, environment(), out, err)
        wait_until_sync(lambda: (tmp_path / "out").read_text(encoding="utf-8") != "", what="it waits")
        assert facts(["-c", FACTS], tmp_path, is_fork=True)["files"] == ["0", "1", "2"]
        process.kill()
        assert process.wait(timeout=100) == -signal.SIGKILL


@pytest.mark.parametrize("is_fork", [True, False])
@pytest.mark.parametrize(
    ("program", "code", "told"),
    [
        ("raise ValueError('of the program')", 1, "ValueError: of the program"),
        ("import sys; sys.exit('a reason')", 1, "a reason"),
        ("import os; os.kill(os.getpid(), 15)", -signal.SIGTERM, ""),
        ("import os; os.kill(os.getpid(), 2)", -signal.SIGINT, "KeyboardInterrupt"),
        ("import atexit; atexit.register(print, 'at the end')", 0, ""),
        ("import warnings; warnings.warn('is an error')", 1, "UserWarning: is an error"),
    ],
)
def test_it_ends_as_a_process_of_its_own_ends(
    tmp_path: Path, is_fork: bool, program: str, code: int, told: str
) -> None:
    found, out, err = ended(["-c", program], tmp_path, is_fork=is_fork)
    assert found == code
    assert told in err
    assert ("at the end" in out) == ("atexit" in program)


def test_many_are_started_at_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        told = threads.map(lambda n: ended(["-c", f"print({n})"], tmp_path, is_fork=True), range(24))
    assert [int(out) for _, out, _ in told] == list(range(24))


def test_a_process_that_has_ended_keeps_its_id_until_its_code_is_read(tmp_path: Path) -> None:
    with tempfile.TemporaryFile("w+") as out:
        process = start(["-c", ""], tmp_path, environment(), out, out)
    wait_until_sync(lambda: not is_alive(process.pid), what="it has ended")
    assert Path(f"/proc/{process.pid}").exists()
    process.terminate()  # nobody else can be meant
    assert process.wait(timeout=100) == 0
    wait_until_sync(lambda: not Path(f"/proc/{process.pid}").exists(), what="it is reaped")


def test_a_variable_that_the_interpreter_reads_makes_it_a_process_of_its_own(tmp_path: Path) -> None:
    with tempfile.TemporaryFile("w+") as out:
        process = start(["-c", ""], tmp_path, environment({"PYTHONOPTIMIZE": "1"}), out, out)
    assert isinstance(process, subprocess.Popen)
    assert process.wait(timeout=100) == 0


# A test process that dies, with a program of its running.
DYING = """
import os, sys, tempfile
from pathlib import Path
from tests.support.program import environment, start
with tempfile.TemporaryFile("w+") as out:
    process = start(["-c", "import time; time.sleep(3600)"], Path("."), environment(), out, out)
print(process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_still_runs_ends_with_the_test_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    pid = int(done.stdout)
    wait_until_sync(lambda: not is_alive(pid), what="the program is killed")
