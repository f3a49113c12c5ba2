"""One control group (cgroup v2) as a directory: files, members, killing, removing. Every wait here has an end.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress

from kubemin import clock

KILL_SECONDS = 2.0
_REMOVE_SECONDS = 1.0
_PAUSE_MILLISECONDS = 10


class ControlGroup:
    """`mount` is where cgroup2 is mounted, `path` the group's path in it (`/system.slice/kubemin.service`)."""

    __slots__ = ("directory", "mount", "path")

    def __init__(self, mount: str, path: str) -> None:
        self.mount = mount
        self.path = path
        self.directory = mount + path.rstrip("/")

    @property
    def parent(self) -> ControlGroup | None:
        above = self.path.rstrip("/").rpartition("/")[0]
        return ControlGroup(self.mount, above or "/") if self.path != "/" else None

    def child(self, name: str) -> ControlGroup:
        return ControlGroup(self.mount, f"{self.path.rstrip('/')}/{name}")

    def children(self) -> list[str]:
        with suppress(OSError), os.scandir(self.directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        return []

    def file(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def read(self, name: str) -> str:
        with open(self.file(name)) as file:
            return file.read()

    def write(self, name: str, value: str) -> None:
        fd = os.open(self.file(name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)

    def counters(self, name: str) -> dict[str, int]:
        """A flat-keyed file (`memory.events`, `cpu.stat`); empty where the kernel has none."""
        try:
            pairs = (line.split() for line in self.read(name).splitlines())
            return {key: int(value) for key, value in pairs}
        except (OSError, ValueError):
            return {}

    def make(self) -> None:
        with suppress(FileExistsError):
            os.mkdir(self.directory, 0o755)

    def add_self(self) -> None:
        self.write("cgroup.procs", "0")

    def members(self) -> list[int]:
        """Processes of the group and of groups below it."""
        pids: list[int] = []
        for group in self._subtree():
            with suppress(OSError):
                pids += map(int, group.read("cgroup.procs").split())
        return pids

    def populated(self) -> bool:
        return self.counters("cgroup.events").get("populated", 0) != 0

    def signal(self, signum: int) -> None:
        """Every member, through a pidfd that was opened while the process was a member: it is one still, or is dead."""
        with ExitStack() as stack:
            fds: dict[int, int] = {}
            for pid in self.members()[:512]:
                with suppress(OSError):
                    fds[pid] = os.pidfd_open(pid)
                    stack.callback(os.close, fds[pid])
            for pid in set(self.members()) & fds.keys():
                with suppress(OSError):
                    signal.pidfd_send_signal(fds[pid], signum)

    def kill_all(self) -> None:
        """SIGKILL to all members at once, whatever they do meanwhile; does not wait for their end."""
        try:
            self.write("cgroup.kill", "1")
        except FileNotFoundError:
            if os.path.exists(self.directory):
                self._kill_frozen()

    def _kill_frozen(self) -> None:
        """Kernels before 5.14: frozen, so that nobody forks away; SIGKILL reaches frozen processes."""
        self.write("cgroup.freeze", "1")
        for _ in range(64):
            pids = self.members()
            if not pids:
                break
            self.signal(signal.SIGKILL)
            self.await_empty(0.1)
        with suppress(OSError):
            self.write("cgroup.freeze", "0")

    def await_empty(self, seconds: float) -> bool:
        """Wait until no living process is left; False when that took too long. cgroup.events wakes poll with
        POLLPRI."""
        deadline = clock.monotonic() + seconds
        try:
            fd = os.open(self.file("cgroup.events"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        try:
            while b"populated 0" not in os.pread(fd, 4096, 0):
                left = deadline - clock.monotonic()
                if left <= 0:
                    return False
                poller.poll(min(left, 0.25) * 1000)
            return True
        finally:
            os.close(fd)

    def remove(self, seconds: float = _REMOVE_SECONDS) -> bool:
        """Remove the group and those below it. Dying members keep it busy for a moment."""
        deadline = clock.monotonic() + seconds
        while os.path.isdir(self.directory):
            for group in reversed(list(self._subtree())):
                with suppress(OSError):
                    os.rmdir(group.directory)
            if clock.monotonic() > deadline:
                break
            if os.path.isdir(self.directory):
                select.select([], [], [], _PAUSE_MILLISECONDS / 1000)
        return not os.path.isdir(self.directory)

    def destroy(self) -> bool:
        """Kill all members, wait for their end, remove the group."""
        with suppress(OSError):
            self.kill_all()
        return self.await_empty(KILL_SECONDS) and self.remove()

    def _subtree(self) -> Iterator[ControlGroup]:
        """This group and all below, parents first."""
        found = [self]
        for group in found:
            yield group
            found += [group.child(name) for name in group.children()]
