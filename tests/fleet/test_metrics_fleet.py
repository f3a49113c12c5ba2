"""Metrics and totals of a fleet: what its workers did, its election, its locks, its Redis, on every node."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

from nodes import Fleet, running
from support import wait_until
from support.scraping import Samples, Served, free_port

from kubemin.store.redis import keys
from kubemin.telemetry.metrics import TABLE

WORK = """\
name: work
mode: DAG
steps:
  - {name: good, run: ["true"]}
  - {name: bad, run: ["false"], retry: {limit: 1, delay: 10ms}}
"""


def served(fleet: Fleet, **settings: Any) -> Served:
    port = free_port()
    daemon = fleet.node(httpAddr=f"127.0.0.1:{port}", **settings)
    daemon.wait_log("metrics and health are served")
    return Served(daemon, port)


def total(nodes: list[Served], name: str, **labels: str) -> float:
    """Over the fleet."""
    return sum(each(one.samples(), name, **labels) for one in nodes)


def each(found: Samples, name: str, **labels: str) -> float:
    wanted = set(labels.items())
    return sum(value for (known, given), value in found.items() if known == name and wanted <= given)


def test_what_workers_do_is_counted(fleet: Fleet) -> None:
    nodes = [served(fleet), served(fleet)]
    client = fleet.nodes[0].client
    fleet.nodes[0].workflow("work.yaml", WORK)
    assert fleet.nodes[0].ctl("reload").code == 0
    assert client.submit("work").wait(30) == "failed"
    for run in client.enqueue_many("fleetfunctions:nap", [((0,), {}) for _ in range(200)]):
        assert run.wait(30) == "completed"
    again = client.options(retry=1).enqueue("fleetfunctions:no_such_function")
    assert again.wait(30) == "failed"

    wait_until(lambda: total(nodes, "kubemin_tasks_total") == 203, 15, what="all counts")
    assert total(nodes, "kubemin_tasks_total", status="completed") == 201
    assert total(nodes, "kubemin_runs_total", workflow="", status="completed") == 200
    assert total(nodes, "kubemin_runs_total", workflow="work", status="failed") == 1
    assert total(nodes, "kubemin_task_failures_total", cause="exit") == 1
    assert total(nodes, "kubemin_task_retries_total") >= 1
    assert total(nodes, "kubemin_task_run_seconds_count", step="fleetfunctions:nap") == 200
    assert total(nodes, "kubemin_task_wait_seconds_count", step="fleetfunctions:nap") == 200
    assert total(nodes, "kubemin_task_wait_seconds_count", workflow="work") >= 3
    assert total(nodes, "kubemin_worker_busy_seconds_total") > 0
    for one in nodes:
        assert one.samples()["kubemin_queue_length", frozenset({("queue", "default")})] == 0
    silent = {metric.name for metric in TABLE} - {_base(name) for one in nodes for name, _ in one.samples()}
    assert silent <= {"kubemin_tasks_requeued_total"}, "every metric has figures somewhere in a fleet that works"
    shown = [one.daemon.ctl("status").stdout for one in nodes]
    ended = [line.split()[2:] for text in shown for line in text.splitlines() if line.startswith("runs ended")]
    assert sum(int(words[0].strip(",")) for words in ended) == 202, shown


def _base(name: str) -> str:
    """The metric's name in the table: of a histogram without its suffix."""
    return re.sub("_(bucket|sum|count)$", "", name)


def test_the_queue_is_the_fleets(fleet: Fleet) -> None:
    nodes = [served(fleet), served(fleet)]
    assert fleet.nodes[0].ctl("queue", "pause", "default").code == 0
    fleet.nodes[0].client.enqueue_many("fleetfunctions:nap", [((0,), {}) for _ in range(30)])
    queue = frozenset({("queue", "default")})
    for one in nodes:
        wait_until(lambda one=one: one.samples()["kubemin_queue_oldest_seconds", queue] > 0.5, 5, what="a growing age")
        found = one.samples()
        assert found["kubemin_queue_length", queue] == 30 and found["kubemin_queue_paused", queue] == 1


def test_the_election(fleet: Fleet) -> None:
    nodes = [served(fleet), served(fleet)]
    leader = fleet.wait_leader()
    wait_until(lambda: total(nodes, "kubemin_leader") == 1, 10)
    for one in nodes:
        found = one.samples()
        leads = one.daemon is leader
        assert each(found, "kubemin_leader") == leads
        assert each(found, "kubemin_leader_term") == 1, "followers know the term, too"
        assert each(found, "kubemin_leader_terms_total") == leads
        assert each(found, "kubemin_leader_lease_up") == 1
        assert (each(found, "kubemin_leader_renewals_total") > 0) == leads
        counted = each(found, "kubemin_leader_renewals_total")
        assert each(found, "kubemin_leader_renewal_seconds_count") - counted in (0, 1), "timed, and then counted"
        assert (each(found, "kubemin_leader_term_left_seconds") > 0) == leads
        assert (each(found, "kubemin_leader_renewed_seconds_ago") < 2) if leads else True
        assert (each(found, "kubemin_leader_duty_seconds_count", duty="promote") > 0) == leads
        assert each(found, "kubemin_nodes", state="ready") == 2
    other = next(one for one in nodes if one.daemon is not leader)
    leader.kill9(everything=True)
    wait_until(lambda: each(other.samples(), "kubemin_leader") == 1, 20, what="the next leader")
    wait_until(lambda: each(other.samples(), "kubemin_nodes", state="lost") == 1, 30, what="the lost node")
    found = other.samples()
    assert each(found, "kubemin_leader_term") == 2 and each(found, "kubemin_leader_transitions") == 1


def test_locks_and_recoveries(fleet: Fleet) -> None:
    one = served(fleet)
    run = fleet.nodes[0].client.enqueue("fleetfunctions:nap", 60)
    first = running(one.daemon, run.id)
    wait_until(lambda: each(one.samples(), "kubemin_locks_held") == 1, 10)
    assert each(one.samples(), "kubemin_locks_renewed_total") > 0
    fleet.server.command("DEL", f"{keys.LOCK}{run.id}.0")
    wait_until(lambda: each(one.samples(), "kubemin_locks_lapsed_total") == 1, 10, what="the lock that is set again")
    os.kill(first.pid, signal.SIGKILL)
    running(one.daemon, run.id, beyond=first.token)
    found = one.samples()
    assert each(found, "kubemin_tasks_recovered_total") == 1
    assert each(found, "kubemin_tasks_requeued_total", cause="worker-lost") == 1
    run.cancel()


def test_redis_and_its_outages(fleet: Fleet) -> None:
    one = served(fleet)
    wait_until(lambda: each(one.samples(), "kubemin_redis_up") == 1, 10)
    found = one.samples()
    assert each(found, "kubemin_redis_command_seconds_count") > 10
    assert each(found, "kubemin_redis_connects_total") == 1
    assert each(found, "kubemin_redis_clients") >= 4 and each(found, "kubemin_redis_memory_bytes") > 1 << 19
    fleet.server.pause()
    try:
        wait_until(lambda: each(one.samples(), "kubemin_redis_up") == 0, 20, what="the outage")
        found = one.samples()  # answered although the server hangs
        assert each(found, "kubemin_redis_outages_total") == 1 and each(found, "kubemin_redis_outage_seconds_total") > 0
        assert each(found, "kubemin_store_up") == 0
        assert one.get("/readyz")[0] == 503
    finally:
        fleet.server.resume()
    wait_until(lambda: each(one.samples(), "kubemin_redis_up") == 1, 20, what="its end")
    assert each(one.samples(), "kubemin_redis_outages_total") == 1
