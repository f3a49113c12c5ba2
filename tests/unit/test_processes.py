"""Reading the tree below a process, in both ways that kernels allow. Killing it for real: tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubemin import processes

# pid -> (its parent, {its thread: children of that thread})
TREE = {
    10: (1, {10: [11, 12]}),
    11: (10, {11: [], 99: [13]}),
    12: (10, {12: []}),
    13: (11, {13: [14]}),
    14: (13, {14: []}),
    20: (1, {20: []}),
}


@pytest.fixture(params=["children", "scan"])
def proc(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /proc of a kernel with CONFIG_PROC_CHILDREN, and one of a kernel without."""
    for pid, (parent, threads) in TREE.items():
        folder = tmp_path / str(pid)
        for thread, children in threads.items():
            (folder / "task" / str(thread)).mkdir(parents=True)
            if request.param == "children":
                (folder / "task" / str(thread) / "children").write_text("".join(f"{child} " for child in children))
        fields = ["S", str(parent), *["0"] * 17, str(1000 + pid), "0"]
        (folder / "stat").write_text(f"{pid} (a) S 1) Z 7 7) {' '.join(fields)}")
    (tmp_path / "meminfo").write_text("")
    monkeypatch.setattr(processes, "_PROC", str(tmp_path))
    return tmp_path


def test_all_below_are_found_parents_first(proc: Path) -> None:
    found = [process.pid for process in processes.tree(processes.children(10))]
    assert sorted(found) == [11, 12, 13, 14]
    assert found.index(11) < found.index(13) < found.index(14)


def test_a_name_with_brackets_is_no_field(proc: Path) -> None:
    assert processes.look(13) == processes.Process(13, 11, 1013, "S")


def test_a_process_that_goes_while_one_looks(proc: Path) -> None:
    (proc / "13" / "stat").unlink()
    assert 13 not in {process.pid for process in processes.tree(processes.children(10))}
    assert processes.look(13) is None


def test_a_torn_line_is_no_process(proc: Path) -> None:
    (proc / "13" / "stat").write_text("13 (a) S")
    assert processes.look(13) is None
