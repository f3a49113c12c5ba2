"""The fall-back to local, the switch-over, and what moves with it: each run once."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from nodes import Fleet, printed, running
from support import Daemon, wait_until
from support.functions import effects, install

from kubemin import Client, Run
from kubemin.errors import NotFound, Refused, Unreachable
from kubemin.store.redis import keys

WORKFLOW = """
name: chain
params: {{log: {{default: "{log}"}}}}
steps:
  - name: first
    python: fleetfunctions:effect
    with: {{path: "${{{{ params.log }}}}", n: 1001, seconds: 2.0}}
  - name: second
    python: fleetfunctions:effect
    with: {{path: "${{{{ params.log }}}}", n: 1002}}
"""


def test_fall_back_and_switch_over_carry_each_run_once(fleet: Fleet, tmp_path: Path) -> None:
    fleet.server.stop()
    log = tmp_path / "effects"
    daemon = fleet.node(started=False)
    daemon.workflow("chain.yaml", WORKFLOW.format(log=log))
    daemon.workflow(
        "tick.yaml", 'name: tick\nschedule: {cron: "* * * * * *"}\nsteps:\n  - name: a\n    run: ["true"]\n'
    )
    daemon.start()
    assert "Failed to init Redis, falling back to local mode: Redis at " in daemon.log
    assert daemon.ctl("status", "-o", "json").json["mode"] == "fallback"
    client = daemon.client
    assert client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"
    begun = client.submit("chain")
    running(daemon, begun.id)
    slow = client.enqueue("fleetfunctions:effect", str(log), 1000, 3.0)
    running(daemon, slow.id)
    queued = client.enqueue_many("fleetfunctions:effect", [((str(log), n), {}) for n in range(100)])
    keyed = client.submit("chain", params={"log": str(log) + ".other"}, key="once")
    later = client.options(delay="4s").enqueue("fleetfunctions:effect", str(log), 2000)
    assert not client.runs(workflow="tick")

    fleet.server.start()
    began = time.monotonic()
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] in ("carrying", "distributed"), 10)
    printed("server there, switched over", began, 5.0)
    assert "Distributed mode enabled with Redis at " in daemon.log
    runs = [begun.id, slow.id, keyed.id, later.id, *(run.id for run in queued)]
    ended = client.wait(runs, 30)
    assert set(ended.values()) == {"completed"}
    assert effects(log) == [*range(100), 1000, 1001, 1002, 2000]
    assert client.submit("chain", params={"log": str(log) + ".other"}, key="once").id == keyed.id
    assert later.id in {run.id for run in client.runs(limit=1000)}
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] == "distributed", 10)
    wait_until(lambda: client.runs(workflow="tick"), 10)


STEPS = """
name: steps
mode: DAG
params: {{log: {{default: "{log}"}}, base: {{default: 0}}}}
steps:
  - name: list
    python: fleetfunctions:effects
    with: {{path: "${{{{ params.log }}}}", base: "${{{{ params.base }}}}", plus: 0, give: [1, 2, 3]}}
  - name: each
    python: fleetfunctions:effects
    forEach: "${{{{ steps.list.output }}}}"
    maxParallel: 2
    needs: [list]
    with: {{path: "${{{{ params.log }}}}", base: "${{{{ params.base }}}}", plus: "${{{{ item }}}}"}}
  - name: sum
    python: fleetfunctions:effects
    needs: [each]
    with:
      {{path: "${{{{ params.log }}}}", base: "${{{{ params.base }}}}", plus: 4, give: "${{{{ steps.each.output }}}}"}}
"""
EFFECTS = """
def effects(path, base, plus, give=None):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(fd, b"%d\\n" % (10 * base + plus))
    os.close(fd)
    while plus == 1 and os.path.exists(path + ".hold") and not kubemin.current_task().cancelled:
        time.sleep(0.01)
    return plus if give is None else give
"""
HELD = """
name: held
steps:
  - {{name: first, python: fleetfunctions:effects, with: {{path: "{log}", base: 100, plus: 1}}}}
  - {{name: second, python: fleetfunctions:effects, with: {{path: "{log}", base: 100, plus: 2}}}}
"""
POINTS = ["packed", "unloaded", "arrived", "carried", "forgotten"]
RUNS, SINGLES = 8, 200
WORKERS = 2  # of a node under test


def half_done(daemon: Daemon, log: Path) -> tuple[list[Run], list[Run]]:
    """Runs of which some steps ended and none runs, and single tasks that were not begun; the daemon has stopped."""
    client = daemon.client
    hold = log.with_name(log.name + ".hold")
    hold.touch()
    runs = [client.submit("steps", params={"log": str(log), "base": n}, key=f"run-{n}") for n in range(RUNS)]
    wait_until(lambda: sum(n % 10 == 1 for n in effects(log)) == 2, 20, what="both workers held by a first item")
    assert daemon.ctl("drain").code == 0
    singles = client.enqueue_many("fleetfunctions:effect", [((str(log), 1000 + n), {}) for n in range(SINGLES)])
    hold.unlink()
    daemon.send(signal.SIGTERM)
    assert daemon.wait() == 0
    return runs, singles


def expected() -> list[int]:
    return sorted([10 * n + plus for n in range(RUNS) for plus in range(5)] + [1000 + n for n in range(SINGLES)])


@pytest.mark.parametrize(
    ("point", "how"), [*((point, "coordinator") for point in POINTS), ("arrived", "daemon"), ("packed", "daemon")]
)
def test_killed_in_the_middle_of_the_move_each_run_arrives_once(
    fleet: Fleet, tmp_path: Path, point: str, how: str
) -> None:
    """`daemon`: everything is killed while the coordinator stands at that point. It serves no queue that has work then,
    so that no step is killed with it, whose effect would be seen twice."""
    fleet.server.stop()
    install(fleet.folder, "fleetfunctions", EFFECTS)
    log = tmp_path / "effects"
    action = "kill" if how == "coordinator" else "stop"
    environ = {"KUBEMIN_FAULT": f"carrier.{point}={action}", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    daemon = fleet.node(environ=environ, started=False)
    daemon.workflow("steps.yaml", STEPS.format(log=log))
    daemon.start()
    runs, singles = half_done(daemon, log)
    assert 4 <= len(effects(log)) < 5 * RUNS
    settings = json.loads(daemon.config.read_text())
    daemon.configure(**settings | ({"queues": ["elsewhere"]} if how == "daemon" else {}))
    fleet.server.start()
    daemon.start(ready=how == "coordinator")
    reached = tmp_path / f"once.carrier.{point}"
    wait_until(reached.exists, 20, what=f"the point {point}")
    if how == "daemon":
        daemon.kill9(everything=True)
        daemon.configure(**settings)
        daemon.start()
    ended = daemon.client.wait([*runs, *singles], 40)
    assert set(ended.values()) == {"completed"}
    noted = effects(log)
    assert sorted(set(noted)) == expected()  # none is missing
    # What had completed did not run again; a killed worker may have run one task whose end nobody knows.
    assert len(noted) - len(set(noted)) <= (WORKERS if how == "daemon" else 0)
    assert how == "daemon" or "coordinator died" in daemon.log
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] == "distributed", 10)
    assert fleet.server.command("EXISTS", keys.ARRIVED, keys.COMING) == b":0\r\n"
    assert {run.key for run in daemon.client.runs(workflow="steps", limit=2 * RUNS)} == {
        f"run-{n}" for n in range(RUNS)
    }


def test_a_run_is_found_and_can_be_cancelled_while_its_task_runs_here(fleet: Fleet, tmp_path: Path) -> None:
    """Its first step ends when the test says so: until then the run stays where it is, and everybody can see it."""
    fleet.server.stop()
    install(fleet.folder, "fleetfunctions", EFFECTS)
    log, hold = tmp_path / "effects", tmp_path / "effects.hold"
    hold.touch()
    daemon = fleet.node(started=False)
    daemon.workflow("held.yaml", HELD.format(log=log))
    daemon.start()
    client = daemon.client
    yesterday = client.enqueue("fleetfunctions:nap", 0)
    assert yesterday.wait(10) == "completed"
    goes_on, stopped = client.submit("held"), client.submit("held")
    running(daemon, goes_on.id)
    running(daemon, stopped.id)
    waits = client.enqueue("fleetfunctions:effect", str(log), 5)
    fleet.server.start()
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] == "carrying", 10)
    assert waits.id in client.states([waits.id])
    assert daemon.ctl("why", goes_on.id).code == 0
    assert goes_on.view().tasks[0].status == "running"
    listed = [run["id"] for run in daemon.ctl("runs", "-o", "json").json["items"]]
    assert listed == [waits.id, stopped.id, goes_on.id, yesterday.id]
    other = fleet.node(queues=["elsewhere"])
    known = fleet.store()
    wait_until(lambda: known.client.execute("HEXISTS", keys.COMING, stopped.id), 10)
    known.close()
    assert other.client.cancel(stopped.id)
    with pytest.raises(NotFound):
        other.client.cancel(yesterday.id)
    cancelled = daemon.ctl("cancel", yesterday.id)
    assert cancelled.code == 5 and "has ended: completed" in cancelled.stderr
    with pytest.raises(Refused, match="has ended"):
        yesterday.retry()
    assert stopped.wait(20) == "cancelled" and goes_on.status == "running"
    hold.unlink()
    assert client.wait([stopped, goes_on, waits], 30) == {
        stopped.id: "cancelled", goes_on.id: "completed", waits.id: "completed",
    }  # fmt: skip
    assert effects(log) == [5, 1001, 1001, 1002]
    assert goes_on.outputs == {"first": 1, "second": 2}
    assert other.client.run(goes_on.id).view().tasks[0].node == "node-0"
    daemon.send(signal.SIGTERM)
    assert daemon.wait() == 0
    assert daemon.ctl("show", yesterday.id).code == 0  # with no daemon, from the file
    began = time.monotonic()
    with pytest.raises(NotFound):
        client.wait(["0" * 20], 10)
    printed("that there is no such run", began, 1.0)


def test_a_node_that_fell_back_again_says_where_its_runs_are(fleet: Fleet, tmp_path: Path) -> None:
    """Killed while a run was on its way, with the server gone at the next start: it is not run a second time."""
    fleet.server.stop()
    environ = {"KUBEMIN_FAULT": "carrier.arrived=stop", "KUBEMIN_FAULT_ONCE": str(tmp_path / "once")}
    daemon = fleet.node(environ=environ)
    assert daemon.ctl("drain").code == 0
    log = tmp_path / "effects"
    run = daemon.client.enqueue("fleetfunctions:effect", str(log), 1)
    fleet.server.start()
    wait_until((tmp_path / "once.carrier.arrived").exists, 20)
    fleet.server.stop()
    daemon.kill9(everything=True)
    daemon.start()
    assert "runs were on their way into the fleet; they go on when this node reaches it" in daemon.log
    assert daemon.ctl("status", "-o", "json").json["mode"] == "fallback"
    assert daemon.client.states([run]) == {run.id: "waiting"}
    refused = daemon.ctl("cancel", run.id)
    assert refused.code == 5 and "on its way into the fleet" in refused.stderr
    fleet.server.start()
    assert run.wait(30) == "completed" and effects(log) == [1]
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] == "distributed", 10)
    fleet.server.stop()
    daemon.restart()
    gone = daemon.ctl("show", run.id)
    assert gone.code == 3 and "has moved into the fleet" in gone.stderr


def test_who_goes_back_starts_from_what_is_in_its_own_store(fleet: Fleet, tmp_path: Path) -> None:
    fleet.server.stop()
    daemon = fleet.node()
    mine = daemon.client.enqueue("fleetfunctions:nap", 0)
    assert mine.wait(10) == "completed"
    fleet.server.start()
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] == "distributed", 10)
    theirs = daemon.client.enqueue("fleetfunctions:nap", 0)
    assert theirs.wait(10) == "completed"
    assert daemon.stop() == 0
    settings = json.loads(daemon.config.read_text())
    daemon.configure(**settings | {"enableDistributed": False})
    alone = Client.from_config(str(daemon.config))
    try:
        run = alone.enqueue("fleetfunctions:nap", 0)  # while no daemon runs
        daemon.start()
        assert daemon.ctl("status", "-o", "json").json["mode"] == "local"
        assert run.wait(10) == "completed"
        assert alone.states([mine, theirs]) == {mine.id: "completed"}
    finally:
        alone.close()


def test_without_its_server_a_fleet_refuses(fleet: Fleet) -> None:
    """No daemon, no Redis: nothing is accepted that no node would see. And `redisRequired` starts no daemon."""
    fleet.server.stop()
    daemon = fleet.node(started=False, redisRequired=True)
    for command in (["runs"], ["cancel", "0" * 20]):
        done = daemon.ctl(*command)
        assert done.code == 3 and "Traceback" not in done.stderr, done
    with pytest.raises(Unreachable):
        daemon.client.enqueue("fleetfunctions:nap", 0)
    assert not (daemon.state / "kubemin.db").exists()
    daemon.start(ready=False)
    assert daemon.wait() != 0
    assert "Failed to init Redis, and redisRequired is set" in daemon.log


def test_a_fleet_is_left_by_configuration_alone(fleet: Fleet) -> None:
    daemon = fleet.node(enableDistributed=False)
    assert daemon.ctl("status", "-o", "json").json["mode"] == "local"
    assert daemon.client.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"
    assert fleet.server.command("DBSIZE") == b":0\r\n"
