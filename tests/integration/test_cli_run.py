"""kubeminctl run: a private pool, and nothing of it left afterwards."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import processes_naming, program
from support.programs import clean_environ

CODE = """
def double(n):
    print("doubling", n)
    return 2 * n
"""
GOOD = """
name: good
mode: DAG
params: {first: {default: "1"}}
steps:
  - name: numbers
    shell: echo "[$FIRST, 2, 3]" > $KUBEMIN_OUTPUT
    env: {FIRST: "${{ params.first }}"}
  - name: double
    python: helpers:double
    with: {n: "${{ item }}"}
    forEach: "${{ steps.numbers.output }}"
    needs: [numbers]
"""
BAD = """
name: bad
steps:
  - name: fails
    shell: echo some output; echo trouble >&2; exit 3
  - name: after
    run: ["true"]
"""
REPORT = """
name: report
mode: DAG
steps:
  - {name: early, run: [echo, early]}
  - name: left
    needs: [early]
    shell: for n in $(seq 200); do echo "left $n"; done
  - {name: right, needs: [early], run: [echo, right]}
  - {name: alert, needs: [left, right], when: failure, run: [echo, alert]}
"""
LONG = "name: long\nsteps:\n  - {name: nap, run: [sleep, '60']}\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """With a short name, whatever TMPDIR is: in a longer one a pool's socket has no room, and it is made in /tmp."""
    with tempfile.TemporaryDirectory(prefix="kubemin-", dir="/tmp") as name:
        place = Path(name)
        (place / "temp").mkdir()
        (place / "helpers.py").write_text(CODE)
        for name, text in (("good", GOOD), ("bad", BAD), ("long", LONG)):
            (place / f"{name}.yaml").write_text(text)
        yield place


def environ(place: Path) -> dict[str, str]:
    return clean_environ(TMPDIR=str(place / "temp"))


def start(place: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program("kubeminctl"), "run", *args],
        env=environ(place),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(place: Path, *args: str) -> tuple[int, str, str]:
    process = start(place, *args)
    out, err = process.communicate(timeout=60)
    assert_nothing_left(place)
    return process.returncode, out, err


def assert_nothing_left(place: Path) -> None:
    assert list((place / "temp").iterdir()) == []
    assert processes_naming(str(place / "temp")) == []


def test_a_run_that_completes(place: Path) -> None:
    code, out, err = finish(place, str(place / "good.yaml"), "-p", "first=7", "--workers", "2")
    assert code == 0, err
    assert "double[2]" in out and "completed" in out.splitlines()[-1]
    assert "14" in out.partition("output of double:")[2]
    assert any(line.startswith("numbers") and "completed" in line for line in err.splitlines())


def test_a_completed_run_shows_all_that_its_last_steps_wrote(place: Path) -> None:
    (place / "report.yaml").write_text(REPORT)
    code, out, _ = finish(place, str(place / "report.yaml"))
    assert code == 0
    assert "stdout of left:\n  left 1\n" in out and "  left 200\n" in out and "  right\n" in out
    assert "early" not in out.partition("stdout of")[2]


def test_a_folder_with_an_odd_name(place: Path) -> None:
    folder = place / "new\nline ${{x}} ü"
    (folder / "sub").mkdir(parents=True)
    text = "name: odd\nsteps:\n  - {name: a, shell: pwd > here}\n  - {name: b, workdir: sub, shell: pwd > here}\n"
    (folder / "odd.yaml").write_text(text)
    code, _, err = finish(place, str(folder / "odd.yaml"))
    assert code == 0, err
    assert (folder / "here").read_text() == f"{folder}\n" and (folder / "sub" / "here").exists()


def test_a_run_that_fails_shows_why(place: Path) -> None:
    code, out, _ = finish(place, str(place / "bad.yaml"))
    assert code == 1
    assert "stderr of fails:\n  trouble" in out and "stdout of fails:\n  some output" in out
    assert "skipped" in out


def test_json_is_the_run(place: Path) -> None:
    import json

    code, out, err = finish(place, str(place / "bad.yaml"), "-o", "json")
    view = json.loads(out)
    assert (code, err, view["status"], view["tasks"][0]["exitCode"]) == (1, "", "failed", 3)


@pytest.mark.parametrize(
    "args", [["none.yaml"], ["good.yaml", "-p", "nope=1"], ["good.yaml", "--workers", "0"], ["helpers.py"]], ids=str
)
def test_what_is_wrong_is_told_before_anything_starts(place: Path, args: list[str]) -> None:
    code, out, err = finish(place, str(place / args[0]), *args[1:])
    assert (code, out) == (2, "") and err.startswith("kubeminctl: ")


def test_keep(place: Path) -> None:
    process = start(place, str(place / "good.yaml"), "--keep")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    [folder] = (place / "temp").iterdir()
    assert str(folder) in err and (folder / "log").read_text() and (folder / "state" / "kubemin.db").exists()
    assert processes_naming(str(place / "temp")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(place: Path, wait_until: Callable[..., Any], number: signal.Signals) -> None:
    process = start(place, str(place / "long.yaml"))
    assert process.stderr is not None
    assert "running" in process.stderr.readline()
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert "cancelled" in out
    assert_nothing_left(place)


def test_killed_it_takes_its_pool_along(place: Path, wait_until: Callable[..., Any]) -> None:
    process = start(place, str(place / "long.yaml"))
    assert process.stderr is not None
    assert "running" in process.stderr.readline()
    process.kill()
    process.communicate(timeout=30)
    wait_until(lambda: not processes_naming(str(place / "temp")), 20)
    assert list((place / "temp").iterdir()) == []
