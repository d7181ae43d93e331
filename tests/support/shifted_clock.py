"""A Valkey whose clock a test sets: a shim of the C library adds to what the server is told, or tells it one time.

with clock_of(directory, ahead_s=7200) as clock:
    with valkey_server(binary=clock.program) as server: ...
        clock.ahead_s = 86_400
        clock.stopped_ms = 1_796_000_000_000
"""

from __future__ import annotations

import contextlib
import mmap
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.servers import binaries

_SHIM: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long *set;
static volatile long *clock_is(void) {
  if (!set) set = mmap(0, 2 * sizeof(long), PROT_READ, MAP_SHARED, open(AHEAD, O_RDONLY), 0);
  return set;
}
static void shift(long *s, long *fraction, long a_ms) {
  volatile long *is = clock_is();
  long stopped_ms = is[1];
  if (stopped_ms) *s = stopped_ms / 1000, *fraction = stopped_ms % 1000 * a_ms;
  else *s += is[0];
}
int gettimeofday(struct timeval *told, void *zone) {
  int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
  int done = real(told, zone);
  shift(&told->tv_sec, &told->tv_usec, 1000);
  return done;
}
int clock_gettime(clockid_t clock, struct timespec *told) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(clock, told);
  if (clock == CLOCK_REALTIME) shift(&told->tv_sec, &told->tv_nsec, 1000000);
  return done;
}
"""

_SET: Final = "ll"


class Clock:
    """The clock of one server. Mutable: `ahead_s`, and `stopped_ms`. `program` starts a Valkey with it."""

    def __init__(self, program: str, shared: mmap.mmap) -> None:
        self.program = program
        self._shared = shared

    @property
    def ahead_s(self) -> int:
        """Seconds, negative for a clock that is behind."""
        return int(struct.unpack(_SET, self._shared[:])[0])

    @ahead_s.setter
    def ahead_s(self, seconds: int) -> None:
        self._shared[:] = struct.pack(_SET, seconds, 0)

    @property
    def stopped_ms(self) -> int:
        """The time that it always tells, in ms since 1970; 0: it goes."""
        return int(struct.unpack(_SET, self._shared[:])[1])

    @stopped_ms.setter
    def stopped_ms(self, time_ms: int) -> None:
        self._shared[:] = struct.pack(_SET, self.ahead_s, time_ms)


@contextlib.contextmanager
def clock_of(directory: Path, ahead_s: int = 0) -> Iterator[Clock]:
    """Yields a clock. Skips the test where nothing can be compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on PATH (Debian's package gcc)")
    source, shim, program, ahead = (directory / name for name in ("shim.c", "shim.so", "server", "ahead"))
    source.write_text(_SHIM)
    ahead.write_bytes(struct.pack(_SET, ahead_s, 0))
    define = f'-DAHEAD="{ahead}"'
    subprocess.run([compiler, "-shared", "-fPIC", define, "-o", shim, source, "-ldl"], check=True)
    program.write_text(f'#!/bin/sh\nLD_PRELOAD="{shim}" exec "{binaries()["valkey"]}" "$@"\n')
    program.chmod(0o755)
    with ahead.open("r+b") as file, mmap.mmap(file.fileno(), struct.calcsize(_SET)) as shared:
        yield Clock(str(program), shared)
