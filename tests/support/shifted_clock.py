"""A Valkey whose clock is ahead of this machine's: a shim of the C library shifts what the server is told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from tests.support.servers import binaries

_SHIM: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int gettimeofday(struct timeval *told, void *zone) {
  int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
  int done = real(told, zone);
  told->tv_sec += AHEAD_S;
  return done;
}
int clock_gettime(clockid_t clock, struct timespec *told) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(clock, told);
  if (clock == CLOCK_REALTIME) told->tv_sec += AHEAD_S;
  return done;
}
"""


def server_ahead(directory: Path, ahead_s: int) -> str:
    """Returns a program that is a Valkey with such a clock. Skips the test where nothing can be compiled."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler on PATH (Debian's package gcc)")
    source, shim, program = directory / "shim.c", directory / "shim.so", directory / "server"
    source.write_text(_SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", f"-DAHEAD_S={ahead_s}", "-o", shim, source, "-ldl"], check=True)
    program.write_text(f'#!/bin/sh\nLD_PRELOAD="{shim}" exec "{binaries()["valkey"]}" "$@"\n')
    program.chmod(0o755)
    return str(program)
