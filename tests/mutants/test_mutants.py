"""Each planted defect makes its named tests fail: `python -m pytest tests/mutants --mutants [-n 4] [-k WORDS]`.

Without the option only the set itself is checked: that each place is still there, once, and that each test exists.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import of_batches
import of_fleet
import of_leader
import of_moves
import of_processes
import of_records
import of_signing
import of_steps
import of_store
import pytest
from mutants import Mutant, plant

PROJECT = Path(__file__).resolve().parents[2]
CAGE = Path(__file__).with_name("caged.py")
MUTANTS = (
    *of_store.ALL,
    *of_fleet.ALL,
    *of_leader.ALL,
    *of_moves.ALL,
    *of_processes.ALL,
    *of_records.ALL,
    *of_steps.ALL,
    *of_batches.ALL,
    *of_signing.ALL,
)
TESTED = sorted({test.partition("::")[0] for mutant in MUTANTS for test in mutant.tests})
COPIED = ("kubemin", "bin", "conf", "docs", "tests", "setup.cfg", "pyproject.toml", "README.md")
TEST_SECONDS = 150.0  # for the tests of one defect; one that hangs is noticed, too, but the set names none
PASSED, FAILED = 0, 1  # exit codes of pytest; others mean that the tests could not be run

each = pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`defect` and `tested`: all of them with --mutants, else one test that is skipped."""
    for fixture, values, names in (
        ("defect", MUTANTS, [mutant.name for mutant in MUTANTS]),
        ("tested", TESTED, TESTED),
    ):
        if fixture not in metafunc.fixturenames:
            continue
        if metafunc.config.getoption("--mutants", default=False):
            metafunc.parametrize(fixture, values, ids=names)
        else:
            reason = f"plants {len(MUTANTS)} defects and runs their tests, some minutes: pytest tests/mutants --mutants"
            metafunc.parametrize(fixture, [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="all")])


# --- the set ----------------------------------------------------------------------------------------------------------


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1] == []


@each
def test_its_place_is_there_and_its_tests_exist(mutant: Mutant) -> None:
    source = (PROJECT / mutant.file).read_text()
    planted = plant(source, mutant)
    assert planted != source
    if mutant.file.endswith(".py"):
        ast.parse(planted)
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert name.partition("[")[0] in _functions(PROJECT / file), f"{mutant.name}: there is no test {test}"


def _functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


# --- the defects ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to plant defects in, of this run's process."""
    copy = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "mutants"))
        else:
            shutil.copy2(source, copy / name)
    return copy


@pytest.fixture
def planted(tree: Path, defect: Mutant) -> Iterator[Path]:
    file = tree / defect.file
    source = file.read_text()
    file.write_text(plant(source, defect))
    yield tree
    file.write_text(source)


def test_its_tests_fail(planted: Path, defect: Mutant) -> None:
    code, output = _run(planted, defect.tests)
    assert code == FAILED, f"survives (pytest ended with {code}): {defect.name}\n{output[-3000:]}"
    failed = re.findall(r"^FAILED (.+?)(?: - .*)?$", output, re.MULTILINE)
    passed = [test for test in defect.tests if not any(name == test or name.startswith(f"{test}[") for name in failed)]
    assert not passed, f"{defect.name} passes {passed}\n{output[-3000:]}"


def test_without_a_defect_they_pass(tree: Path, tested: str) -> None:
    """Else a failure would prove nothing."""
    tests = sorted({test for mutant in MUTANTS for test in mutant.tests if test.startswith(f"{tested}::")})
    code, output = _run(tree, tests)
    assert code == PASSED, output[-5000:]


def _run(tree: Path, tests: Sequence[str], seconds: float = TEST_SECONDS) -> tuple[int, str]:
    """pytest's exit code and output, on this tree and no other."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "KUBEMIN_"))}
    environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    here = f"import kubemin, pytest, sys; assert kubemin.__file__.startswith({str(tree)!r}); sys.exit(pytest.main())"
    options = ["-q", "--tb=short", "-rf", "-p", "no:cacheprovider", "-p", "no:xdist"]
    process = subprocess.Popen(
        [sys.executable, str(CAGE), sys.executable, "-c", here, *options, *tests],
        cwd=tree,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # the cage ends what is below it
        output, _ = process.communicate()
        return -1, f"not within {seconds:g} s\n{output}"
    return process.returncode, output
