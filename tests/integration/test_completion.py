"""Shell completion: what a real bash-like request of the completion script is answered."""

from __future__ import annotations

from support import Daemon

STEPS = "name: nightly-report\nsteps: [{name: a, run: ['true']}]\n"


def offered(daemon: Daemon, *words: str) -> list[str]:
    """What completes the last word; as the script of `completion bash` asks."""
    line = " ".join(("kubeminctl", *words))
    done = daemon.ctl(_KUBEMINCTL_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words)))
    assert done.code == 0 and not done.stderr, done
    return [text.partition(",")[2] for text in done.stdout.splitlines() if text]


def test_runs_workflows_and_queues(daemon: Daemon) -> None:
    daemon.workflow("nightly.yaml", STEPS)
    assert daemon.ctl("reload").code == 0
    done = daemon.client.submit("nightly-report")
    assert done.wait(20) == "completed"
    waiting = daemon.client.submit("nightly-report", delay="1h")

    assert offered(daemon, "submit", "ni") == ["nightly-report"] and offered(daemon, "submit", "x") == []
    assert offered(daemon, "runs", "--workflow", "") == ["nightly-report"]
    for command in ("show", "why", "logs"):
        assert offered(daemon, command, "") == [waiting.id, done.id], "the newest first"
        assert offered(daemon, command, done.id[:-1]) == [done.id]
    assert offered(daemon, "cancel", "") == [waiting.id]
    assert offered(daemon, "retry", "") == []
    assert waiting.cancel() is True
    assert offered(daemon, "retry", "") == [waiting.id] and offered(daemon, "cancel", "") == []
    assert offered(daemon, "queue", "pause", "") == ["default"]
    assert "submit" in offered(daemon, "sub")


def test_where_nothing_can_be_asked_nothing_is_offered(daemon: Daemon) -> None:
    daemon.config.write_text("what: is this\n")
    assert daemon.stop() == 0
    assert offered(daemon, "show", "") == [] and offered(daemon, "submit", "") == []
