"""What an operator does before and during a deploy: drain with an estimate, status, steps that outlive the grace."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import Daemon, wait_until
from support.watching import running

NAP = (
    "name: nap\nparams: {seconds: {default: '0.5'}}\nsteps:\n  - {name: sleep, run: [sleep, '${{ params.seconds }}']}\n"
)
# Saves what it has when it is told to end, and goes on from there the next time.
SAVES = """\
name: saves
steps:
  - name: long
    shell: |
      echo "$KUBEMIN_ATTEMPT $KUBEMIN_DEADLINE $(date +%s)" >> "$STATE/starts"
      if [ -e "$STATE/saved" ]; then exit 0; fi
      trap 'echo half > "$STATE/saved"; exit 1' TERM
      touch "$STATE/begun"
      while :; do sleep 0.1; done
    timeout: 5m
    env: {STATE: "STATE_DIR"}
"""


def test_drain_tells_when_what_runs_will_have_ended(daemon: Daemon) -> None:
    daemon.workflow("nap.yaml", NAP)
    assert daemon.ctl("reload").code == 0
    for _ in range(2):
        assert daemon.client.submit("nap", params={"seconds": "2"}).wait(20) == "completed"
    for _ in range(5):  # on a busy machine a command may take longer to start than the step to end
        run = daemon.client.submit("nap", params={"seconds": "2"})
        wait_until(lambda: run.status == "running")  # noqa: B023
        shown = daemon.ctl("drain", "-o", "json").json
        if shown["running"] and shown["secondsLeft"] is not None:
            break
        assert daemon.ctl("undrain").code == 0
        assert run.wait(20) == "completed"  # the next one is to be alone
    [step] = shown["running"]
    assert step["label"] == "nap/sleep" and 1.9 < step["usual"] < 4 and 0 <= step["left"] <= 4
    assert shown["secondsLeft"] == step["left"]
    told = daemon.ctl("drain").stdout
    assert "they should have ended in" in told or "longer than ever" in told or run.status == "completed"
    assert daemon.ctl("drain", "--wait", "--timeout", "30").code == 0
    assert run.wait(5) == "completed"  # what a worker has reported is committed at once, if not before it is idle
    waiting = daemon.client.submit("nap")
    assert waiting.status == "waiting"
    assert daemon.ctl("undrain").code == 0
    assert waiting.wait(20) == "completed"


def test_drain_without_history_says_so(daemon: Daemon) -> None:
    daemon.workflow("nap.yaml", NAP)
    assert daemon.ctl("reload").code == 0
    run = daemon.client.submit("nap", params={"seconds": "30"})
    running(daemon, run.id)
    assert "is not known" in daemon.ctl("drain").stdout
    late = daemon.ctl("drain", "--wait", "--timeout", "0.5")
    assert late.code == 3 and "still run" in late.stderr
    run.cancel()


def test_a_step_that_outlives_the_grace_saves_its_state_and_costs_no_attempt(
    start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    daemon = start_daemon(gracefulTimeout="200ms", started=False)
    daemon.workflow("saves.yaml", SAVES.replace("STATE_DIR", str(tmp_path)))
    daemon.start()
    wait_until(lambda: [view.name for view in daemon.client.workflows()] == ["saves"], what="the publication")
    run = daemon.client.submit("saves")
    wait_until(lambda: (tmp_path / "begun").exists(), what="the step's start")
    daemon.restart()
    assert run.wait(20) == "completed"
    assert (tmp_path / "saved").read_text() == "half\n"
    starts = [tuple(map(int, line.split())) for line in (tmp_path / "starts").read_text().splitlines()]
    assert [attempt for attempt, _, _ in starts] == [1, 1]
    for _, deadline, now in starts:
        assert abs(deadline - (now + 300)) <= 2  # seconds since the epoch: the step's own time-out


def test_status_on_one_screen(daemon: Daemon) -> None:
    daemon.workflow("bad.yaml", "name: bad\nsteps:\n  - {name: a, run: ['false']}\n")
    assert daemon.ctl("reload").code == 0
    assert daemon.client.submit("bad").wait(20) == "failed"
    shown = _status(daemon)
    assert shown["failed runs, last hour"] == "1 (bad 1)"
    assert shown["last reload"].endswith("ago, done")
    assert shown["workers"] == "0 of 2 busy"
    daemon.workflow("bad.yaml", "name: bad\nsteps:\n  - {name: a, rn: ['false']}\n")
    assert daemon.ctl("reload").code == 2
    assert "refused: " in _status(daemon)["last reload"] and "bad.yaml" in _status(daemon)["last reload"]
    for _ in range(10):  # so many that they still show when `status` is slow to start
        assert daemon.client.submit("bad").wait(20) == "failed"
    wait_until(lambda: _status(daemon)["rate"] != "0.0 tasks/s", 10, what="a rate")


def _status(daemon: Daemon) -> dict[str, Any]:
    lines = daemon.ctl("status").stdout.split("\n\n")[0].splitlines()
    return {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in lines}


def test_the_rate_is_shown(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(python={"allow": ["math:*"]})
    began = time.monotonic()
    runs = daemon.client.enqueue_many("math:sqrt", [((n,), {}) for n in range(2000)])
    assert set(daemon.client.wait(runs, 30).values()) == {"completed"}
    wait_until(lambda: float(_status(daemon)["rate"].split()[0]) > 5, 10, what="the rate")
    print(f"2000 tasks in {time.monotonic() - began:.2f} s; rate shown: {_status(daemon)['rate']}")
