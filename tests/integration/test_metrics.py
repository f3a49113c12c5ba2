"""`httpAddr`: metrics, health and readiness of a real daemon; the dashboard and the alert rules against real names."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from support import PROJECT, Daemon, wait_until
from support.scraping import Served, free_port

from kubemin.telemetry.metrics import TABLE, markdown

STEPS = """\
name: work
mode: DAG
steps:
  - {name: good, run: ["true"]}
  - {name: bad, run: ["false"], retry: {limit: 1, delay: 10ms}}
  - {name: many, forEach: [1, 2, 3], run: ["true"]}
"""


@pytest.fixture
def serve(start_daemon: Callable[..., Daemon]) -> Callable[..., Served]:
    def start(**settings: Any) -> Served:
        port = free_port()
        daemon = start_daemon(httpAddr=f"127.0.0.1:{port}", python={"allow": ["math:*", "time:*"]}, **settings)
        daemon.wait_log("metrics and health are served")
        return Served(daemon, port)

    return start


def test_what_happens_is_counted(serve: Callable[..., Served]) -> None:
    served = serve()
    daemon = served.daemon
    daemon.workflow("work.yaml", STEPS)
    assert daemon.ctl("reload").code == 0
    assert daemon.client.submit("work").wait(30) == "failed"
    for run in daemon.client.enqueue_many("math:sqrt", [((n,), {}) for n in range(50)]):
        assert run.wait(30) == "completed"

    found = served.samples()

    def value(name: str, **labels: str) -> float | None:
        return found.get((name, frozenset(labels.items())))

    assert value("kubemin_tasks_total", status="completed") == 50 + 4 + 1  # four steps, and forEach's own end
    assert value("kubemin_task_failures_total", cause="exit") == 1
    assert value("kubemin_task_retries_total") == 1
    assert value("kubemin_runs_total", workflow="work", status="failed") == 1
    assert value("kubemin_runs_total", workflow="", status="completed") == 50
    assert value("kubemin_task_run_seconds_count", workflow="work", step="many") == 4
    assert value("kubemin_task_run_seconds_count", workflow="", step="math:sqrt") == 50
    assert value("kubemin_task_wait_seconds_count", workflow="", step="math:sqrt") == 50
    # Each attempt waits anew: good, bad twice, forEach itself and its three items; what a worker in replacement gives
    # back unstarted is handed out twice.
    for step, attempts in {"good": 1, "bad": 2, "many": 4}.items():
        assert (value("kubemin_task_wait_seconds_count", workflow="work", step=step) or 0) >= attempts
    assert value("kubemin_workers", state="idle") == 2
    assert value("kubemin_reloads_total", result="ok") == 1
    assert value("kubemin_leader") == 1
    assert value("kubemin_queue_length", queue="default") == 0
    assert (value("kubemin_store_commit_seconds_count") or 0) > 0
    assert (value("kubemin_store_bytes") or 0) > 4096


def test_deaths_and_recoveries(serve: Callable[..., Served]) -> None:
    served = serve()
    run = served.daemon.client.enqueue("time:sleep", 60)
    pid = wait_until(lambda: _busy(served.daemon), what="a busy worker")
    import os
    import signal

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: served.value("kubemin_worker_deaths_total") == 1, 20)
    wait_until(lambda: served.value("kubemin_workers", state="running") == 1, 20, what="the task on another worker")
    found = served.samples()
    assert found["kubemin_tasks_recovered_total", frozenset()] == 1
    assert found["kubemin_tasks_requeued_total", frozenset({("cause", "worker-lost")})] == 1
    run.cancel()


def _busy(daemon: Daemon) -> int | None:
    workers = daemon.ctl("status", "-o", "json").json["workers"]
    return next((worker["pid"] for worker in workers if worker["state"] == "running"), None)


def test_health_and_readiness(serve: Callable[..., Served]) -> None:
    served = serve()
    assert served.get("/healthz") == (200, "ok\n")
    assert served.get("/readyz") == (200, "ok\n")
    assert served.daemon.ctl("drain").code == 0
    assert served.get("/readyz") == (503, "the node is drained\n")
    assert served.get("/healthz") == (200, "ok\n")
    assert served.value("kubemin_drained") == 1 and served.value("kubemin_ready") == 0
    assert served.daemon.ctl("undrain").code == 0
    assert served.get("/readyz")[0] == 200
    assert served.get("/nothing")[0] == 404


def test_slow_clients_hold_up_nobody(serve: Callable[..., Served]) -> None:
    served = serve()
    slow = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(40)]
    for sock in slow[:20]:
        sock.sendall(b"GET /metrics HTTP/1.1\r\n")  # and never ends
    try:
        assert served.get("/healthz")[0] == 200
        began = time.monotonic()
        assert served.daemon.client.enqueue("math:sqrt", 4).wait(10) == "completed"
        print(f"a task beside 40 clients that do not go on: {time.monotonic() - began:.3f} s")
        for sock in slow:
            sock.settimeout(15)
            assert sock.recv(1) == b""  # cut off in the end
    finally:
        for sock in slow:
            sock.close()


def test_a_port_that_is_taken_does_not_keep_the_daemon_from_its_work(start_daemon: Callable[..., Daemon]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon = start_daemon(httpAddr=f"127.0.0.1:{taken.getsockname()[1]}", python={"allow": ["math:*"]})
        daemon.wait_log("no metrics and health: cannot listen")
        assert daemon.client.enqueue("math:sqrt", 4).wait(10) == "completed"


# --- what is made from the names ------------------------------------------------------------------------------------


def _exposed(served: Served) -> set[str]:
    """Names that a query may use."""
    names: set[str] = set()
    for family in text_string_to_metric_families(served.get("/metrics")[1]):
        suffixes = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",)}.get(family.type, ("",))
        names |= {family.name + suffix for suffix in suffixes}
    return names


def _expressions() -> dict[str, str]:
    found = {}
    dashboard = json.loads((PROJECT / "conf/grafana/kubemin.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            found[f"dashboard: {panel['title']}"] = target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found[f"variable: {variable['name']}"] = variable["definition"]
    for group in yaml.safe_load((PROJECT / "conf/alerts/kubemin.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            found[f"alert: {rule['alert']}"] = rule["expr"]
    return found


def test_every_name_in_the_dashboard_and_the_alerts_is_served(serve: Callable[..., Served]) -> None:
    served = serve()
    exposed, expressions = _exposed(served), _expressions()
    assert len(expressions) > 20
    for where, expression in expressions.items():
        used = set(re.findall(r"\bkubemin_\w+", expression))
        assert used or "up{" in expression, where
        assert used <= exposed, f"{where}: {used - exposed}"
    labels = {metric.name: set(metric.labels) for metric in TABLE}
    for where, expression in expressions.items():
        for name, inside in re.findall(r"\b(kubemin_\w+)\{([^}]*)\}", expression):
            base = re.sub(r"_(bucket|sum|count)$", "", name) if name not in labels else name
            assert set(re.findall(r"(\w+)\s*[=!]~?", inside)) <= labels[base] | {"le", "instance", "job"}, where


def test_all_metrics_are_served_and_described(serve: Callable[..., Served]) -> None:
    text = serve().get("/metrics")[1]
    for metric in TABLE:
        assert f"# HELP {metric.name.removesuffix('_total')}" in text, metric.name
    assert markdown() in (PROJECT / "docs" / "operations.md").read_text()


def test_every_alert_is_explained() -> None:
    page = (PROJECT / "docs" / "operations.md").read_text()
    rules = yaml.safe_load((PROJECT / "conf/alerts/kubemin.yaml").read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules if f"`{rule['alert']}`" not in page] == []
