"""Small C libraries that stand before the C library in a daemon: a disk that is slow, a wall clock that is wrong.

For what a test can reach in no other way: they change what the kernel seems to say, and nothing of the program.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_HEAD = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long told(const char *name) {
    char text[32] = "";
    const char *path = getenv(name);
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atol(text);
}
"""
_DISK = """
static void wait(void) { long s = told("SLOW_DISK"); if (s) sleep(s); }
int fsync(int fd) { wait(); return syscall(SYS_fsync, fd); }
int fdatasync(int fd) { wait(); return syscall(SYS_fdatasync, fd); }
"""
_CLOCK = """
int clock_gettime(clockid_t id, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, id, at);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += told("WALL_CLOCK");
    return failed;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


def slow_disk(folder: Path, seconds: Path) -> dict[str, str]:
    """Environment of a process whose fsync(2) takes as long as the file `seconds` says; none: as long as it takes."""
    return {"LD_PRELOAD": str(_built(folder, "disk", _DISK)), "SLOW_DISK": str(seconds)}


def wall_clock(folder: Path, seconds: Path) -> dict[str, str]:
    """Environment of a process whose wall clock is wrong by so many seconds, and is set when the file changes."""
    return {"LD_PRELOAD": str(_built(folder, "clock", _CLOCK)), "WALL_CLOCK": str(seconds)}


def _built(folder: Path, name: str, body: str) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = folder / f"{name}.c", folder / f"{name}.so"
    if not library.exists():
        source.write_text(_HEAD + body)
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return library
