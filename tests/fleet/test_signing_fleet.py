"""A fleet that signs, and an attacker who can write to its Redis: what no key holder signed has no effect anywhere.

Effects are lines in files. While the attacker is at work a paused queue holds what he changes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nodes import Fleet
from support import Daemon, wait_until

from kubemin import Client
from kubemin.api.run import Run
from kubemin.config import load_settings
from kubemin.errors import Refused
from kubemin.model.ids import run_id
from kubemin.signing import load
from kubemin.store.redis import keys
from kubemin.store.redis.client import Client as Connection
from kubemin.store.redis.opening import redis_address
from kubemin.store.redis.replies import unpack_folded

KEY, OTHER = "5" * 64, "7" * 64
pack, unpack = msgspec.msgpack.encode, msgspec.msgpack.decode

CHAIN = """
name: chain
mode: DAG
params: {word: {default: good}}
steps:
  - name: list
    shell: |
      echo "list $WORD $ATTEMPT" >> FILE
      printf '["one", "two"]' > $KUBEMIN_OUTPUT
    env: {WORD: "${{ params.word }}", ATTEMPT: "${{ run.attempt }}"}
  - name: each
    shell: |
      echo "each $WORD" >> FILE
      printf '"%s"' "$WORD" > $KUBEMIN_OUTPUT
    env: {WORD: "${{ item }}"}
    forEach: "${{ steps.list.output }}"
    queue: middle
    needs: [list]
  - name: last
    shell: |
      echo "last $FIRST $ALL" >> FILE
    env: {FIRST: "${{ steps.list.output }}", ALL: "${{ steps.each.output }}"}
    queue: late
    needs: [each]
"""
TICK = """
name: tick
schedule: {cron: "* * * * * *", missed: all}
steps:
  - name: a
    shell: echo $AT >> FILE
    env: {AT: "${{ run.scheduledAt }}"}
"""
QUEUES = ("default", "middle", "late")


class Attacker:
    """Has Redis, and no key."""

    def __init__(self, daemon: Daemon, effects: Path) -> None:
        self.daemon, self.effects = daemon, effects
        self.redis = Connection(redis_address(load_settings(str(daemon.config))), name="attacker")

    def __call__(self, *command: Any) -> Any:
        return self.redis.execute(*command)

    def change(self, key: str, field: str | int, **changes: Any) -> dict[str, Any]:
        """Of a record; what it was."""
        raw = self("HGET", key, field)
        record = {"s": 1, "o": 0, "q": 0, "Q": int(raw[1:])} if raw[:1] == b"q" else unpack(raw)
        self("HSET", key, field, pack(record | changes))
        return record  # type: ignore[no-any-return]

    def swap(self, one: str, two: str, field: str) -> None:
        first, second = self("HGET", one, field), self("HGET", two, field)
        self("HSET", one, field, second)
        self("HSET", two, field, first)

    def queue(self, run: str, seq: int) -> None:
        self("ZADD", keys.pending("default"), seq, f"{run}.0")
        self("RPUSH", keys.queue("default"), f"{run}.0@{seq}")

    def plant(self, source: str) -> str:
        """A definition of his own, complete and under its right name."""
        from kubemin.files import load_workflow_text
        from kubemin.store.redis.definitions import fields

        made = load_workflow_text(source, "evil.yaml", "/")
        for name, value in fields(made, 1):
            self("HSET", keys.graph(made.hash), name, value)
        return made.hash

    def mark(self, workflow: str) -> int:
        found: int = unpack(self("HGET", keys.WORKFLOWS, workflow))["m"]
        return found

    @property
    def done(self) -> list[str]:
        return self.effects.read_text().splitlines() if self.effects.exists() else []


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return write_key(tmp_path / "signing-key", KEY)


def write_key(path: Path, *found: str) -> Path:
    path.write_text("\n".join(found))
    path.chmod(0o600)
    return path


@pytest.fixture
def daemon(fleet: Fleet, key_file: Path) -> Daemon:
    return fleet.node(signingKeyFile=str(key_file), queues=QUEUES, maxWorkers=2)


@pytest.fixture
def attacker(daemon: Daemon, tmp_path: Path) -> Iterator[Attacker]:
    made = Attacker(daemon, tmp_path / "effects")
    yield made
    made.redis.close()


def publish(daemon: Daemon, attacker: Attacker, source: str = CHAIN) -> None:
    daemon.workflow("chain.yaml", source.replace("FILE", str(attacker.effects)))
    before = daemon.log.count("all workers were replaced")
    assert daemon.ctl("reload").code == 0
    wait_until(
        lambda: daemon.log.count("all workers were replaced") > before, 15
    )  # a drained one gives its claims back


def held(daemon: Daemon, what: Callable[[], Any], queue: str = "default", ready: int = 1) -> Any:
    """Submit into a paused queue; returns when so many tasks stand there."""
    daemon.client.pause(queue)
    made = what()
    wait_until(lambda: sum(view.length for view in daemon.client.queues() if view.name == queue) >= ready, 10)
    return made


def refused(daemon: Daemon, run: str, cause: str = "unsigned") -> None:
    """It ends failed with that cause at its first attempt, and a reason in the log."""
    view = daemon.client.run(run)
    assert view.wait(10) == "failed"
    tasks = daemon.client.reader().run(run).tasks
    failed = [task for task in tasks if task.status == "failed" and task.cause != "group"]
    assert failed and {task.cause for task in failed} == {cause}, tasks
    assert {task.attempt for task in failed} == {1}
    assert "a task was refused" in daemon.log


def workers(daemon: Daemon) -> list[int]:
    return [worker["pid"] for worker in daemon.ctl("status", "-o", "json").json["workers"]]


def effect(daemon: Daemon, attacker: Attacker, n: int, **options: Any) -> Run:
    return daemon.client.options(**options).enqueue("fleetfunctions:effect", str(attacker.effects), n)


# --- what is signed goes as before -----------------------------------------------------------------------------------


def test_what_key_holders_submit_runs(fleet: Fleet, daemon: Daemon, attacker: Attacker) -> None:
    fleet.node(signingKeyFile=load_settings(str(daemon.config)).signing_key_file, queues=QUEUES)
    publish(daemon, attacker)
    client = daemon.client
    assert effect(daemon, attacker, 1, retry=2, timeout="5m", key="k", delay="100ms").wait(10) == "completed"
    run = client.submit("chain", params={"word": "hello"}, key="one")
    assert run.wait(15) == "completed"
    assert run.outputs == {"list": ["one", "two"], "each": ["one", "two"]}
    assert client.retry(run, "each") == 2 and run.wait(15) == "completed"
    many = client.enqueue_many("fleetfunctions:effect", [((str(attacker.effects), 9), {})] * 1500)  # staged in parts
    assert set(client.wait(many, 30).values()) == {"completed"}
    mapped = client.map("fleetfunctions:token", [], then=None)
    assert mapped.wait(10) == "completed"
    done = attacker.done
    assert done.count("9") == 1500 and done.count("each one") == done.count("each two") == 2
    assert done.count("list hello 1") == 1 and done.count('last ["one","two"] ["one","two"]') == 2


def test_schedules_and_on_failure_run_signed(fleet: Fleet, key_file: Path, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    daemon = fleet.node(
        signingKeyFile=str(key_file), onFailure=["sh", "-c", f"cat > /dev/null; echo told >> {effects}"]
    )
    daemon.workflow(
        "tick.yaml",
        f"""
name: tick
schedule: {{cron: "* * * * * *"}}
steps: [{{name: a, shell: "echo tick >> {effects}; exit 1"}}]
""",
    )
    assert daemon.ctl("reload").code == 0
    wait_until(lambda: effects.exists() and {"tick", "told"} <= set(effects.read_text().split()), 20)


# --- single tasks ----------------------------------------------------------------------------------------------------


def test_single_tasks_that_were_changed_or_made_up(daemon: Daemon, attacker: Attacker) -> None:
    before = workers(daemon)
    runs = held(daemon, lambda: [effect(daemon, attacker, n, retry=5).id for n in range(6)], ready=6)
    work, extra, option, one, two, good = runs
    attacker("HSET", keys.run(work), "w", b'{"run":["touch","%s"]}' % os.fsencode(attacker.effects))
    attacker("HDEL", keys.run(extra), "x")
    told = attacker("HGET", keys.run(option), "x")
    attacker("HSET", keys.run(option), "x", told.replace(b'"limit":5', b'"limit":6'))
    attacker.swap(keys.run(one), keys.run(two), "x")
    copied, forged = run_id(), run_id()
    record = attacker("HGETALL", keys.run(good))
    attacker("HSET", keys.run(copied), *record)
    attacker("HSET", keys.run(forged), "s", "q1 1 default", "w", attacker("HGET", keys.run(work), "w"))
    daemon.client.resume("default")
    attacker.queue(copied, 10**6)
    attacker.queue(forged, 10**6 + 1)
    for run in (work, extra, option, one, two, copied, forged):
        refused(daemon, run)
    assert daemon.client.run(good).wait(10) == "completed"
    assert attacker.done == ["5"] and workers(daemon) == before


def test_records_that_make_no_sense_end_their_tasks_and_not_their_workers(daemon: Daemon, attacker: Attacker) -> None:
    before = workers(daemon)
    runs = held(daemon, lambda: [effect(daemon, attacker, n).id for n in range(3)], ready=3)
    for run, bad in zip(runs, (b"{", b'{"sig":7}', b'{"sig":"\xc3\xa9.1.x"}'), strict=True):
        attacker("HSET", keys.run(run), "x", bad)
    daemon.client.resume("default")
    assert set(daemon.client.wait(runs, 10).values()) == {"failed"}
    assert attacker.done == [] and workers(daemon) == before


def test_an_old_entry_that_is_put_back(daemon: Daemon, attacker: Attacker) -> None:
    run = effect(daemon, attacker, 1)
    assert run.wait(10) == "completed"
    token = daemon.client.reader().run(run.id).tasks[0].token
    attacker("HDEL", keys.run(run.id), "o")
    attacker("HSET", keys.run(run.id), "s", "q1 1 default")
    attacker.queue(run.id, token)
    refused(daemon, run.id, "replayed")
    daemon.restart()
    attacker("HSET", keys.run(run.id), "s", "q1 1 default")
    attacker.queue(run.id, token)
    wait_until(lambda: daemon.log.count("a task was refused") == 2, 10)
    assert attacker.done == ["1"]


def test_a_batch_that_nobody_sent(daemon: Daemon, attacker: Attacker) -> None:
    submission = {"id": run_id(), "work": {"run": ["touch", str(attacker.effects)]}, "signature": "x.1.y"}
    attacker("RPUSH", keys.inbox("batch"), b"1|" + msgspec.json.encode([submission, submission | {"id": run_id()}]))
    attacker("RPUSH", keys.sealing(), "batch")
    refused(daemon, submission["id"])
    assert attacker.done == []


# --- workflows -------------------------------------------------------------------------------------------------------


def test_runs_that_were_changed(daemon: Daemon, attacker: Attacker) -> None:
    publish(daemon, attacker)
    client = daemon.client
    words = [f"w{n}" for n in range(7)]
    runs = held(daemon, lambda: [client.submit("chain", {"word": word}).id for word in words], ready=len(words))
    params, one, two, plan, unsigned, place, round_ = runs
    attacker("HSET", keys.run(params), "p", '{"word":"evil"}')
    attacker.swap(keys.run(one), keys.run(two), "sig")
    evil = attacker.plant(CHAIN.replace("FILE", str(attacker.effects)).replace("list $WORD", "evil"))
    attacker.change(keys.run(plan), "r", d=evil)
    attacker("HDEL", keys.run(unsigned), "sig")
    attacker.change(keys.tasks(place), 0, p=2)
    attacker.change(keys.run(round_), "r", R=2)
    client.resume("default")
    for run in (params, one, two, plan, unsigned, round_):
        refused(daemon, run)
    daemon.wait_log(f"task={place}.0 cause=unsigned")  # its counts are spoilt, so that it does not end
    assert attacker.done == []


def test_a_definition_that_was_changed(fleet: Fleet, daemon: Daemon, attacker: Attacker) -> None:
    publish(daemon, attacker)
    run = held(daemon, lambda: daemon.client.submit("chain").id)
    digest = unpack(attacker("HGET", keys.run(run), "r"))["d"]
    good = attacker("HGET", keys.graph(digest), "g")
    attacker("HSET", keys.graph(digest), "g", good.replace(b"list $WORD", b"evil $WORD"))
    daemon.restart()  # workers that have not read it yet
    daemon.client.resume("default")
    assert daemon.client.run(run).wait(10) == "failed"
    assert [view.cause for view in daemon.client.runs()] == ["unsigned"]
    assert attacker.done == []


def test_outputs_and_items_that_were_changed(daemon: Daemon, attacker: Attacker) -> None:
    publish(daemon, attacker)
    client = daemon.client
    runs = held(daemon, lambda: [client.submit("chain").id for _ in range(3)], "middle", ready=6)
    output, detail, token = runs
    attacker("HSET", keys.outputs(output), 0, '["evil", "evil"]')
    attacker.change(keys.tasks(detail), 0, D=unpack(attacker("HGET", keys.tasks(output), 0))["D"])
    attacker.change(keys.tasks(token), 0, k=99_999)
    client.resume("middle")
    for run in runs:
        refused(daemon, run)
    # A worker that has verified the items when it began the fan-out goes on with those.
    assert set(attacker.done) <= {"list good 1", "each one", "each two"}


def test_joined_outputs_that_were_changed(daemon: Daemon, attacker: Attacker) -> None:
    publish(daemon, attacker)
    client = daemon.client
    runs = held(daemon, lambda: [client.submit("chain").id for _ in range(5)], "late", ready=5)
    item, swapped, fewer, gone, base = runs
    first = unpack(attacker("HGET", keys.tasks(item), 1))["b"]
    attacker("HSET", keys.outputs(item), first, '"evil"')
    for field in (keys.outputs(swapped), keys.tasks(swapped)):
        one, two = attacker("HMGET", field, first, first + 1)
        attacker("HSET", field, first, two, first + 1, one)
    attacker.change(keys.tasks(fewer), 1, N=1)
    attacker("HDEL", keys.outputs(gone), first + 1)
    attacker.change(keys.tasks(base), 1, b=0)
    client.resume("late")
    for run in runs:
        refused(daemon, run)
    assert not [line for line in attacker.done if line.startswith("last")]


def test_an_old_step_that_is_put_back(daemon: Daemon, attacker: Attacker) -> None:
    publish(daemon, attacker)
    run = daemon.client.submit("chain")
    assert run.wait(15) == "completed"
    record, folded = attacker("HMGET", keys.run(run.id), "r", "t")
    tasks, _ = unpack_folded(folded) or ([], [])
    task = dict(zip(tasks[::2], tasks[1::2], strict=True))[b"0"]
    token = unpack(task)["k"]
    attacker("HSET", keys.run(run.id), "r", pack(unpack(record) | {"s": 2, "l": 1}))
    attacker("HDEL", keys.run(run.id), "t")
    attacker("HSET", keys.tasks(run.id), 0, pack(unpack(task) | {"s": 1, "k": 0, "q": token}))
    attacker.queue(run.id, token)
    daemon.wait_log("a task was refused")
    assert len([line for line in attacker.done if line.startswith("list")]) == 1


def test_a_published_workflow_that_was_changed(daemon: Daemon, attacker: Attacker) -> None:
    publish(daemon, attacker)
    evil = attacker.plant(CHAIN.replace("FILE", str(attacker.effects)).replace("list $WORD", "evil"))
    ticking = attacker.plant(f'name: ticking\nsteps: [{{name: a, run: [touch, "{attacker.effects}"]}}]\n'
                             'schedule: {cron: "* * * * * *"}\n')  # fmt: skip
    attacker.change(keys.WORKFLOWS, "chain", h=evil)
    schedule = '{"cron":"* * * * * *"}'
    attacker("HSET", keys.WORKFLOWS, "ticking", pack({"h": ticking, "at": 1, "m": 1, "s": schedule}))
    for submit in (lambda: daemon.client.submit("chain"), lambda: daemon.client.submit("ticking")):
        with pytest.raises(Refused, match=r"cannot be trusted: .* kubeminctl reload") as caught:
            submit()
        assert caught.value.code == "unsigned"
    told = daemon.ctl("submit", "chain")
    assert told.code == 5 and "cannot be trusted" in told.stderr and "Traceback" not in told.stderr
    daemon.wait_log("left out of the leader's work workflow=ticking")
    assert attacker.done == []


def test_runs_that_a_node_carries_into_the_fleet_are_signed(fleet: Fleet, key_file: Path, tmp_path: Path) -> None:
    effects = tmp_path / "effects"
    fleet.server.stop()
    daemon = fleet.node(signingKeyFile=str(key_file), queues=["default", "middle"])
    daemon.workflow("chain.yaml", CHAIN.replace("FILE", str(effects)))
    assert daemon.ctl("reload").code == 0
    client = daemon.client
    begun = client.submit("chain", {"word": "carried"})  # its last step has no queue here
    client.options(queue="late").enqueue("fleetfunctions:effect", str(effects), 7)
    wait_until(lambda: len(effects.read_text().splitlines()) == 3 if effects.exists() else False, 20)
    fleet.server.start()
    wait_until(lambda: daemon.ctl("status", "-o", "json").json["mode"] == "distributed", 20)
    other = fleet.node(signingKeyFile=str(key_file), queues=["late"])
    assert begun.wait(20) == "completed", other.log
    wait_until(lambda: "7" in effects.read_text().split(), 10)
    assert 'last ["one","two"] ["one","two"]' in effects.read_text()
    assert "a task was refused" not in daemon.log + other.log


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_client_without_the_fleets_key_is_refused(fleet: Fleet, daemon: Daemon, tmp_path: Path) -> None:
    settings = load_settings(str(daemon.config))
    other = write_key(tmp_path / "other", OTHER)
    open_ = write_key(tmp_path / "open", KEY)
    open_.chmod(0o644)
    for path, text in ((None, "no signingKeyFile is set here"), (str(other), "the first key here is")):
        with Client.from_settings(msgspec.structs.replace(settings, signing_key_file=path)) as client:
            with pytest.raises(Refused, match=text):
                client.enqueue("fleetfunctions:nap", 0)
            assert client.runs() == [] and client.queues() == []
    told = daemon.ctl("submit", "chain", KUBEMIN_SIGNING_KEY_FILE=str(open_))
    assert told.code == 4, told
    told = daemon.ctl("cancel", run_id(), KUBEMIN_SIGNING_KEY_FILE=str(open_))
    assert told.code == 4, told
    (tmp_path / "w.yaml").write_text("name: one\nsteps: [{name: a, run: [true]}]\n")
    told = daemon.ctl("submit", "-f", str(tmp_path / "w.yaml"), KUBEMIN_SIGNING_KEY_FILE=str(open_))
    assert told.code == 2 and "chmod 0640" in told.stderr and "Traceback" not in told.stderr


def test_doctor_compares_the_keys_of_all_nodes(fleet: Fleet, daemon: Daemon, key_file: Path, tmp_path: Path) -> None:
    def said() -> list[tuple[str, str]]:
        items = daemon.ctl("doctor", "-o", "json").json["items"]
        return [(item["status"], item["message"]) for item in items if item["check"] == "signing"]

    name = load(str(key_file)).id
    assert said() == [
        ("ok", f"{key_file}, mode 0600: signs with key {name}"),
        ("ok", f"1 live node(s) sign with key {name}"),
    ]
    other = fleet.node(signingKeyFile=str(write_key(tmp_path / "other", OTHER, KEY)))
    other.wait_log("this node does not sign with the same key as another")
    [(_, _), (status, message)] = said()
    assert status == "wrong" and f"node-0: key {name}, node-1: key " in message
    key_file.chmod(0o644)
    [(status, message)] = said()
    assert status == "wrong" and f"chmod 0640 {key_file}" in message
    told = daemon.ctl("reload")
    assert told.code != 0 and "chmod 0640" in told.stdout + told.stderr


@pytest.mark.parametrize("key", [OTHER, None], ids=["another key", "no key"])
def test_a_node_that_shares_no_key_stays_out(
    fleet: Fleet, daemon: Daemon, tmp_path: Path, attacker: Attacker, key: str | None
) -> None:
    """It would end the others' tasks as unsigned, one after the other."""
    settings = {} if key is None else {"signingKeyFile": str(write_key(tmp_path / "other", key))}
    other = fleet.node(started=False, **settings).start(ready=False)
    assert other.wait(20) != 0
    assert "sign with another key (node-0: " in other.log and "signingKeyFile" in other.log
    runs = [effect(daemon, attacker, n) for n in range(20)]
    assert {run.wait(20) for run in runs} == {"completed"}
    assert [view.record.node for view in fleet.store().nodes()] == ["node-0"]


def test_a_machine_that_works_alone_takes_the_setting(start_daemon: Callable[..., Daemon], key_file: Path) -> None:
    daemon = start_daemon(signingKeyFile=str(key_file))
    (daemon.home / "alone.yaml").write_text("name: alone\nsteps: [{name: a, run: [true]}]\n")
    assert daemon.client.submit(daemon.home / "alone.yaml").wait(10) == "completed"


def test_a_mark_of_a_schedule_that_was_put_back(fleet: Fleet, daemon: Daemon, attacker: Attacker) -> None:
    """A leader fires no slot twice, and none of long ago."""
    publish(daemon, attacker, TICK)
    wait_until(lambda: len(attacker.done) >= 2, 15)
    mark = attacker.mark("tick")
    attacker.change(keys.WORKFLOWS, "tick", m=mark - 3 * 10**6)
    wait_until(lambda: attacker.mark("tick") > mark + 10**6, 15)
    attacker.change(keys.WORKFLOWS, "tick", m=mark - 9 * 86_400 * 10**6)
    before = attacker.mark("tick")
    wait_until(lambda: attacker.mark("tick") > before, 15)
    assert len(set(attacker.done)) == len(attacker.done)
    assert not any(line < "2026" for line in attacker.done)


def test_keys_are_rotated_without_a_gap(daemon: Daemon, key_file: Path, tmp_path: Path) -> None:
    client = daemon.client
    daemon.workflow("one.yaml", "name: one\nsteps: [{name: a, run: [true]}]\n")
    kept = held(daemon, lambda: client.enqueue("fleetfunctions:nap", 0))
    for found in ((KEY, OTHER), (OTHER, KEY)):
        write_key(key_file, *found)
        assert daemon.ctl("reload").code == 0
    client.resume("default")
    assert kept.wait(10) == "completed"
    write_key(key_file, OTHER)
    assert daemon.ctl("reload").code == 0
    with Client.from_config(str(daemon.config)) as fresh:
        wait_until(lambda: [len(view.record.keys) for view in fresh.fleet_store().nodes()] == [1], 10)
        assert fresh.submit("one").wait(10) == "completed"
        assert fresh.enqueue("fleetfunctions:nap", 0).wait(10) == "completed"


def test_a_run_that_was_signed_long_ago(fleet: Fleet, daemon: Daemon, key_file: Path, attacker: Attacker) -> None:
    from kubemin import clock
    from kubemin.store.codec import Extra, encode
    from kubemin.store.redis.signatures import _task

    run = held(daemon, lambda: effect(daemon, attacker, 1)).id
    work, long_ago = attacker("HGET", keys.run(run), "w"), clock.wall() - 8 * 86_400 * clock.SECOND
    extra = Extra(sig=load(str(key_file)).sign(long_ago, *_task(run, work, Extra())))
    attacker("HSET", keys.run(run), "x", encode(extra))
    daemon.client.resume("default")
    refused(daemon, run, "replayed")
    assert attacker.done == []
    daemon.client.retry(run)
    assert daemon.client.run(run).wait(10) == "completed"
    assert attacker.done == ["1"]
