"""The journal: fields, message ids, a run as one query; and what becomes of work when journald stands still."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from testbed import UNIT, Machine

STORY = """\
name: story
steps:
  - name: talk
    shell: |
      echo "hello from $KUBEMIN_STEP"
      echo "a warning" >&2
      python3 -c 'print("x" * 300000)'
  - name: fail
    run: ["false"]
"""
FLOOD = "name: flood\nsteps:\n  - {name: talk, shell: 'seq 1 20000'}\n"


@pytest.fixture
def story(unit: Machine) -> Iterator[str]:
    unit.write("/etc/kubemin/workflows.d/story.yaml", STORY)
    unit.ok("systemctl", "reload", UNIT)
    yield unit.ctl("submit", "story", "--wait").out.split()[0]


def test_a_runs_whole_story_is_one_query(unit: Machine, story: str) -> None:
    records = unit.journal(f"KUBEMIN_RUN={story}")
    messages = [str(record["MESSAGE"]) for record in records]
    assert "hello from talk" in messages and "a warning" in messages
    assert any(message.startswith("Worker ") and f"executing task {story}.0" in message for message in messages)
    assert any(message.startswith("run finished") for message in messages)
    assert max(map(len, messages)) > 1000  # a long line is there, in parts or whole

    line = next(record for record in records if record["MESSAGE"] == "hello from talk")
    assert line["SYSLOG_IDENTIFIER"] == "kubemin" and line["PRIORITY"] == "6"
    assert (line["KUBEMIN_WORKFLOW"], line["KUBEMIN_STEP"], line["KUBEMIN_TASK"]) == ("story", "talk", f"{story}.0")
    assert (line["KUBEMIN_ATTEMPT"], line["KUBEMIN_STREAM"], line["KUBEMIN_NODE"]) == ("1", "stdout", "testbed")
    assert line["KUBEMIN_WORKER"].isdigit() and line["_SYSTEMD_UNIT"] == UNIT
    ended = next(record for record in records if str(record["MESSAGE"]).startswith("run finished"))
    assert (ended["KUBEMIN_CAUSE"], ended["KUBEMIN_STATE"], ended["PRIORITY"]) == ("exit", "failed", "4")
    assert ended["MESSAGE_ID"] == "f265ed826757421aaa8671899b3a55e0"


def test_the_main_events_have_ids(unit: Machine, story: str) -> None:
    for message, id in {
        "ready": "3cbb5124246f48d7ba5dde5e3bb5fe48",
        "reloading": "cbb74e9f77454b85b53913703f775928",
        "task finished": "8195f3e24bcd441a9f49fb93ccb4400f",
        "workflows published": "dd723566a6cc47b58fb21d343e74c430",
    }.items():
        assert any(found.startswith(message) for found in unit.messages(f"MESSAGE_ID={id}")), message


def test_logs_are_read_from_the_journal_and_it_says_so(unit: Machine, story: str) -> None:
    shown = unit.ctl("logs", story)
    assert "from the journal" in shown.err and "talk | hello from talk" in shown.out
    assert len(shown.out) > 200_000  # all of it, not the kept 64 KiB
    document = json.loads(unit.ok("kubeminctl", "logs", f"{story}/talk", "-o", "json"))
    assert document["source"] == "journal"
    assert [(line["stream"], line["text"]) for line in document["lines"]][:1] == [("stdout", "hello from talk")]
    kept = unit.ctl("logs", story, "--kept")
    assert "as the store keeps it" in kept.err and len(kept.out) < 100_000
    # Who may not read the journal gets what the store keeps.
    unit.sh("id watcher >/dev/null 2>&1 || useradd -M -G kubemin watcher")
    other = unit.run("runuser", "-u", "watcher", "--", "kubeminctl", "logs", story)
    assert "as the store keeps it" in other.err and "a warning" in other.out, other


def test_logs_follow_a_run_as_it_goes_on(unit: Machine) -> None:
    unit.write(
        "/etc/kubemin/workflows.d/slow.yaml",
        "name: slow\nsteps:\n  - {name: count, shell: 'for n in 1 2 3; do echo line $n; sleep 1; done'}\n",
    )
    unit.ok("systemctl", "reload", UNIT)
    run = unit.ok("kubeminctl", "submit", "slow").strip()
    shown = unit.ctl("logs", "-f", run)
    assert shown.code == 0 and [line.split(" | ")[1] for line in shown.out.splitlines()] == [
        "line 1",
        "line 2",
        "line 3",
    ]


def test_a_stopped_journald_blocks_nothing_and_what_is_dropped_is_counted(unit: Machine) -> None:
    unit.write("/etc/kubemin/workflows.d/flood.yaml", FLOOD)
    unit.write("/etc/kubemin/kubemin.yaml", "maxWorkers: 4\noutput: {linesPerSecond: 1000000}\n")
    unit.restart()
    journald = unit.ok("systemctl", "show", "-P", "MainPID", "systemd-journald").strip()
    unit.sh("ln -sf /bin/true /run/warm; kubeminctl status >/dev/null")
    unit.ok("kill", "-STOP", journald)
    try:
        done = unit.ctl("submit", "flood", "--wait")
        assert done.code == 0, done
    finally:
        unit.ok("kill", "-CONT", journald)
    assert unit.ctl("submit", "flood", "--wait").code == 0
    told = [line for line in unit.messages() if line.startswith("log records dropped")]
    assert told and sum(int(line.rpartition("count=")[2]) for line in told) > 0
    print(told[-1])
