"""The checker of a reload: what it finds, and what it leaves in the runtime directory for the other processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kubemin.cli.reload import Checker, check, origin
from kubemin.config import Settings, load_settings, read_result
from kubemin.config.reload import read_definitions
from kubemin.errors import Unreachable

WORKFLOW = "name: {name}\nsteps:\n  - name: a\n    run: ['true']\n"


class Node:
    """A configuration directory, and the daemon's view of it."""

    def __init__(self, home: Path) -> None:
        self.home, self.config = home, home / "kubemin.yaml"
        (home / "workflows.d").mkdir()
        (home / "run").mkdir()
        self.settings_are()
        self.environ: dict[str, str] = {"HOME": "/home/u", "UNRELATED_SECRET": "x"}

    def settings_are(self, text: str = "") -> None:
        self.config.write_text(f"stateDir: state\nruntimeDir: run\n{text}")

    def workflow(self, name: str, text: str | None = None) -> None:
        (self.home / "workflows.d" / f"{name}.yaml").write_text(text or WORKFLOW.format(name=name))

    def load(self) -> Settings:
        return load_settings(str(self.config), {"taskTimeout": "5m"}, self.environ)

    def checker(self) -> Checker:
        return Checker(self.load(), origin(str(self.config), {"taskTimeout": "5m"}, self.environ))

    @property
    def run(self) -> str:
        return str(self.home / "run")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def names(path: str | None) -> list[str]:
    assert path is not None
    return [definition.graph.workflow for definition in read_definitions(path)]


def test_at_the_start_a_wrong_file_does_not_stop_the_others(node: Node) -> None:
    node.workflow("good")
    node.workflow("bad", "name: bad\nsteps: []\nfoo: 1\n")
    result = node.checker().prepare()
    assert read_result(node.run) == result
    assert not result.ok and not result.complete and result.settings == node.load()
    assert names(result.definitions) == ["good"]
    assert all("bad.yaml" in problem.message for problem in result.problems) and len(result.problems) >= 2


def test_a_file_that_anybody_else_may_write_is_not_published(node: Node) -> None:
    for name in ("good", "open", "theirs"):
        node.workflow(name)
    folder, odd = node.home / "workflows.d", os.fsdecode(b"caf\xe9.yaml")
    (folder / "open.yaml").rename(folder / odd)
    (folder / odd).chmod(0o666)
    codes = ["unsafe"]
    if os.geteuid() == 0:
        os.chown(folder / "theirs.yaml", 4711, 4711)
        codes.append("wrong_owner")
    result = node.checker().prepare()
    assert names(result.definitions) == ["good", *(["theirs"] if len(codes) == 1 else [])]
    assert [problem.code for problem in result.problems] == codes
    assert "chmod o-w" in result.problems[0].message and "caf\\udce9.yaml" in result.problems[0].message
    assert not node.checker()().ok


def test_a_reload_takes_what_changed(node: Node) -> None:
    checker, old = node.checker(), node.load()
    assert checker.prepare().ok
    node.workflow("new")
    node.settings_are("maxWorkers: 3\nnodeId: other\nlock: {ttl: 30s}\n")
    result = checker(old)
    assert result.ok and [change.key for change in result.changes] == ["maxWorkers", "nodeId", "lock.ttl"]
    found = read_result(node.run)
    assert found.settings is not None
    assert (found.settings.max_workers, found.settings.task_timeout) == (3, 300.0)
    assert (found.settings.node_id, found.settings.lock.ttl) == (old.node_id, 15.0)  # only a restart changes these
    assert names(found.definitions) == ["new"]
    again = checker(found.settings)
    assert [change.key for change in again.changes] == ["nodeId", "lock.ttl"]


@pytest.mark.parametrize("what", ["settings", "workflow"])
def test_a_reload_is_all_or_nothing(node: Node, what: str) -> None:
    checker, old = node.checker(), node.load()
    node.workflow("one")
    checker.prepare()
    node.workflow("two")
    node.settings_are("maxWorkers: 3\n" + ("foo: 1\n" if what == "settings" else ""))
    if what == "workflow":
        node.workflow("two", "name: two\n")
    result = checker(old)
    assert not result.ok and result.settings == old and result.definitions is None and result.problems
    assert names(str(node.home / "run" / "definitions.json")) == ["one"]  # the old list is left as it was


def test_without_the_settings_in_force_the_last_outcome_counts(node: Node) -> None:
    checker = node.checker()
    checker.prepare()
    node.settings_are("maxWorkers: 3\n")
    assert [change.key for change in checker().changes] == ["maxWorkers"]
    assert checker().changes == ()


def test_a_dry_run_with_the_daemons_own_sources_writes_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.environ["KUBEMIN_RETENTION_DAYS"] = "3"
    node.checker().prepare()
    known = read_result(node.run)
    assert "UNRELATED_SECRET" not in known.origin.environ and known.settings is not None
    before = sorted((path.name, path.stat().st_mtime_ns) for path in Path(node.run).iterdir())
    node.settings_are("gracefulTimeout: 1m\n")
    monkeypatch.setenv("KUBEMIN_MAX_WORKERS", "7")  # of the operator's shell: not the daemon's
    result = Checker(known.settings, known.origin).dry_run(known.settings)
    assert [(change.key, change.applies) for change in result.changes] == [("gracefulTimeout", "live")]
    assert sorted((path.name, path.stat().st_mtime_ns) for path in Path(node.run).iterdir()) == before


def test_everything_wrong_is_found_at_once(node: Node) -> None:
    node.settings_are("maxWorkers: 0\n")
    node.workflow("bad", "name: bad\n")
    checked = check(origin(str(node.config), {"queues": "UP"}, {"KUBEMIN_USER": "no-such-user"}))
    told = "\n".join(map(str, checked.problems))
    assert all(text in told for text in ("maxWorkers", "queues", "bad.yaml", "user"))


def test_a_runtime_directory_that_is_gone(node: Node) -> None:
    checker = node.checker()
    os.rmdir(node.run)
    for call in (checker, checker.prepare):
        with pytest.raises(Unreachable, match="cannot write"):
            call()


def test_a_disk_that_is_full_leaves_the_old_outcome(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    checker = node.checker()
    first = checker.prepare()
    import resource
    import signal

    def attempt() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        with pytest.raises(Unreachable, match="cannot write"):
            checker()

    if (pid := os.fork()) == 0:
        code = 1
        try:
            attempt()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert read_result(node.run) == first
    assert sorted(path.name for path in Path(node.run).iterdir()) == ["definitions.json", "settings.json"]
