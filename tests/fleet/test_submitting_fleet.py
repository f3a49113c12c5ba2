"""What a client's submission costs the server: one command for a task, one for a run whose definition is there."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
from nodes import Fleet

import kubemin
from kubemin.errors import Invalid, Refused
from kubemin.store.redis import keys

STEPS = "params:\n  day: {default: monday}\nsteps: [{name: a, run: [echo, hi]}]\n"


@pytest.fixture
def client(fleet: Fleet) -> kubemin.Client:
    return fleet.node(started=False).client


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flow.yaml"
    path.write_text(f"name: flow\n{STEPS}")
    while time.time() - path.stat().st_ctime < 0.2:  # until it has rested
        time.sleep(0.02)
    return path


def asked(fleet: Fleet) -> Counter[str]:
    """Commands that clients sent, those inside scripts left out."""
    text = fleet.server.command("INFO", "commandstats").decode()
    lines = (line.partition(":calls=") for line in text.splitlines() if line.startswith("cmdstat_"))
    sent = ("evalsha", "eval", "hget", "hmget", "zadd", "hexists", "select", "client", "get")
    return Counter({name[8:]: int(rest.partition(",")[0]) for name, _, rest in lines if name[8:] in sent})


def scripts(fleet: Fleet) -> int:
    return asked(fleet)["evalsha"]


def test_a_task_is_one_script_and_stands_in_its_queue(fleet: Fleet, client: kubemin.Client) -> None:
    client.enqueue("fleetfunctions:nap", 0)
    before = scripts(fleet)
    runs = [client.enqueue("fleetfunctions:nap", 0) for _ in range(20)]
    assert scripts(fleet) - before == 20
    entries = fleet.server.command("LRANGE", keys.queue("default"), 1, -1).decode().splitlines()[2::2]
    assert [entry.partition(".")[0] for entry in entries] == [run.id for run in runs]
    assert {run.status for run in runs} == {"waiting"} and all(run.created for run in runs)


def test_a_task_for_a_paused_queue_is_held(fleet: Fleet, client: kubemin.Client) -> None:
    client.pause("default")
    client.enqueue("fleetfunctions:nap", 0)
    assert fleet.server.command("LLEN", keys.queue("default")) == b":0\r\n"
    assert fleet.server.command("LLEN", keys.held("default")) == b":1\r\n"
    client.resume("default")
    assert fleet.server.command("LLEN", keys.queue("default")) == b":1\r\n"


def test_a_definition_travels_once(fleet: Fleet, client: kubemin.Client, file: Path) -> None:
    client.submit(file)
    fleet.server.command("CONFIG", "RESETSTAT")
    for n in range(10):
        assert client.submit(file, {"day": str(n)}).created
    told = asked(fleet)
    assert told["evalsha"] == 10 and told["hexists"] == 0, told
    with pytest.raises(Invalid):
        client.submit(file, {"night": "1"})
    assert client.submit(file, key="k").created
    assert not client.submit(file, key="k").created
    with pytest.raises(Refused):
        client.submit(file, {"day": "sunday"}, key="k")


def test_a_definition_that_the_server_lost_travels_again(fleet: Fleet, client: kubemin.Client, file: Path) -> None:
    first = client.submit(file)
    fleet.server.command("FLUSHALL")
    second = client.submit(file)
    assert second.created and client.runs()[0].id == second.id != first.id
    assert fleet.server.command("ZCARD", keys.DEFINITIONS) == b":1\r\n"


def test_a_changed_file_is_another_definition(fleet: Fleet, client: kubemin.Client, file: Path) -> None:
    client.submit(file)
    file.write_text(f"name: other\n{STEPS}")
    run = client.submit(file)
    assert client.runs()[0].id == run.id and client.runs()[0].workflow == "other"
    os.unlink(file)
    with pytest.raises(Invalid):
        client.submit(file)
