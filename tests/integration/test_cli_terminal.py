"""kubeminctl on a terminal: the tree of `run`, the keys of `top`, colours, and the terminal given back as it was."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Daemon, processes_naming, program, run_program
from support.programs import clean_environ

LIMIT = 60.0  # seconds a program may take


class Terminal:
    """A program on a terminal of 30 lines."""

    def __init__(self, *argv: str, environ: dict[str, str], columns: int = 110) -> None:
        self.text, self._deadline = "", time.monotonic() + LIMIT
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell that runs the tests in the background has it ignored
            os.execve(program("kubeminctl"), ["kubeminctl", *argv], environ | {"TERM": "xterm"})
        self.before = termios.tcgetattr(self._fd)

    def press(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def read_until(self, pattern: str) -> str:
        """What was shown up to the first place that matches, and is forgotten then; fails at the program's end."""
        while not (found := re.search(pattern, self.text)):
            assert self._read(), f"{pattern!r} was not shown: {self.text}"
        shown, self.text = self.text[: found.end()], self.text[found.end() :]
        return shown

    def finish(self) -> int:
        """Read to its end; its exit code."""
        while self._read():
            pass
        assert termios.tcgetattr(self._fd) == self.before
        os.close(self._fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        left = self._deadline - time.monotonic()
        assert left > 0 and select.select([self._fd], [], [], left)[0], f"too slow: {self.text}"
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # nobody has the other end any more
            return False
        self.text += data.decode(errors="replace")
        return bool(data)


def test_run(tmp_path: Path) -> None:
    file = tmp_path / "tree.yaml"
    file.write_text("name: tree\nsteps:\n  - name: group\n    steps:\n      - {name: leaf, run: [echo, hello]}\n")
    terminal = Terminal("run", str(file), environ=clean_environ(TMPDIR=str(tmp_path)))
    shown = terminal.read_until(r"stdout of group/leaf")
    assert "└── group" in shown and "    └── leaf" in shown and "\x1b[32mcompleted" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l")  # the cursor is shown again
    assert terminal.finish() == 0
    assert "hello" in terminal.text


def test_an_interrupted_run(tmp_path: Path) -> None:
    file = tmp_path / "nap.yaml"
    file.write_text("name: nap\nsteps:\n  - {name: sleep, run: [sleep, '60']}\n")
    terminal = Terminal("run", str(file), environ=clean_environ(TMPDIR=str(tmp_path)))
    terminal.read_until("running.*\n?.*sleep.*running")
    terminal.press("\x03")
    terminal.read_until("cancelling the run")
    assert terminal.finish() == 130
    assert "Traceback" not in terminal.text and "cancelled" in terminal.text
    assert [entry.name for entry in tmp_path.iterdir()] == ["nap.yaml"]
    assert processes_naming(f"{tmp_path}/kubemin-run") == []


def test_top(daemon: Daemon, wait_until: Callable[..., Any]) -> None:
    daemon.workflow("nap.yaml", "name: nap\nsteps:\n  - {name: sleep, run: [sleep, '60']}\n")
    first, second = (daemon.client.submit(daemon.workflows / "nap.yaml") for _ in range(2))
    waiting = daemon.client.submit(daemon.workflows / "nap.yaml")
    wait_until(lambda: [run.status for run in (first, second)] == ["running"] * 2)
    terminal = Terminal("top", "--every", "0.1", environ=daemon.environ)
    terminal.read_until("2 of 2 workers busy  1 task queued")
    terminal.press("\x1b[Bc")
    asked = terminal.read_until(r"cancel run (\w+)\? y")
    terminal.press("n")
    terminal.read_until("q: quit")
    terminal.press("c")
    terminal.read_until(r"cancel run (\w+)\? y")
    terminal.press("y")
    terminal.read_until("is being cancelled")
    chosen = asked.rpartition("cancel run ")[2].partition("?")[0]
    assert daemon.client.wait([chosen], 15) == {chosen: "cancelled"}
    assert chosen in (first.id, second.id)
    wait_until(lambda: waiting.status == "running")
    terminal.press("q")
    assert terminal.finish() == 0
    assert terminal.text.rstrip().endswith("\x1b[?1049l")  # back on the normal screen


def test_long_names_give_way_on_a_narrow_terminal_alone(daemon: Daemon, wait_until: Callable[..., Any]) -> None:
    flow, step = "a-report-with-a-long-name", "extract-everything-from-the-warehouse"
    run = daemon.client.submit(
        daemon.workflow("long.yaml", f"name: {flow}\nsteps:\n  - {{name: {step}, run: [sleep, '60']}}\n")
    )
    wait_until(lambda: run.status == "running")
    shown = Terminal("status", environ=daemon.environ | {"NO_COLOR": "1"}, columns=80)
    assert shown.finish() == 0
    lines = shown.text.splitlines()
    assert max(map(len, lines)) <= 80 and any("…" in line and "from-the-warehouse " in line for line in lines), lines
    assert f" {flow}/{step} " in daemon.ctl("status").stdout
    top = Terminal("top", "--every", "0.1", environ=daemon.environ, columns=80)
    top.read_until("…[a-z-]*from-the-warehouse")
    top.press("q")
    assert top.finish() == 0
    run.cancel()
    assert run.wait(15) == "cancelled"


def test_tables_are_coloured_unless_asked_otherwise(daemon: Daemon) -> None:
    daemon.client.options(delay="1h").enqueue("time:sleep", 1)
    coloured = Terminal("runs", environ=daemon.environ)
    assert coloured.finish() == 0 and "\x1b[" in coloured.text
    plain = Terminal("runs", environ=daemon.environ | {"NO_COLOR": "1"})
    assert plain.finish() == 0 and "\x1b[" not in plain.text


@pytest.mark.parametrize(("name", "imported"), [("kubeminctl", "click"), ("kubemind", "msgspec")])
def test_an_interrupt_while_it_is_loaded_ends_it_without_a_word(tmp_path: Path, name: str, imported: str) -> None:
    (tmp_path / f"{imported}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = run_program(name, "--help", PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
