"""The man pages are what the code says, and roff takes them; install-service puts everything where it belongs."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import PROJECT, program, run_program

sys.path.insert(0, str(PROJECT / "man"))

import make

from kubemin.config.table import TABLE
from kubemin.telemetry.events import MESSAGE_IDS


@pytest.mark.parametrize("name", make.PAGES)
def test_the_pages_are_current(name: str) -> None:
    assert (PROJECT / "man" / name).read_text() == make.pages()[name], "run python3 man/make.py"


@pytest.mark.parametrize("name", make.PAGES)
def test_roff_takes_them(name: str) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("needs groff")
    page = str(PROJECT / "man" / name)
    done = subprocess.run([groff, "-man", "-Tutf8", "-ww", "-z", page], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_setting_is_in_the_manual() -> None:
    page = (PROJECT / "man" / "kubemin.yaml.5").read_text()
    assert [key.name for key in TABLE if f".B {key.name}\n" not in page] == []


def _lines_of_the_log() -> set[str]:
    """Constant messages of level warning and error."""
    found: set[str] = set()
    for file in (PROJECT / "kubemin").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("log.warning", "log.error", "log.exception"):
                match node.args:
                    case [ast.Constant(value=str(text)), *_]:
                        found.add(text)
    return found


def test_every_warning_and_error_is_explained() -> None:
    names = ("guide.md", "operations.md", "fleet.md", "leadership.md")
    pages = "".join((PROJECT / "docs" / name).read_text() for name in names)
    lines = {line.partition(" (")[0] for line in _lines_of_the_log()}
    assert len(lines) > 60
    assert {line for line in lines if f"`{line}`" not in pages and f"`{line} …`" not in pages} == set()


def test_every_main_event_is_listed_with_its_id() -> None:
    page = (PROJECT / "docs" / "operations.md").read_text()
    listed = re.findall(r"^\| `(.+)` \| `([0-9a-f]{32})` \|$", page, re.MULTILINE)
    assert dict(listed) == MESSAGE_IDS and len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)


def test_install_service_into_a_folder(tmp_path: Path) -> None:
    (tmp_path / "etc/kubemin/secrets").mkdir(parents=True)
    (tmp_path / "etc/kubemin/secrets/reports-db").write_text("x")
    (tmp_path / "etc/kubemin/kubemin.yaml").write_text("gracefulTimeout: 10m\n")
    done = run_program("kubeminctl", "install-service", "--root", str(tmp_path), "-o", "json")
    assert done.returncode == 0, done
    became = {Path(item["path"]).relative_to(tmp_path): item["became"] for item in json.loads(done.stdout)["items"]}
    assert became.pop(Path("etc/kubemin/kubemin.yaml")) == "kept"
    assert set(became.values()) == {"created"}
    unit = (tmp_path / "etc/systemd/system/kubemin.service").read_text()
    assert f"ExecStart={program('kubemind')}\n" in unit and f"ExecReload={program('kubeminctl')} reload\n" in unit
    assert "TimeoutStopSec=630s\n" in unit  # gracefulTimeout and what comes after it
    assert "LoadCredential=reports-db:/etc/kubemin/secrets/reports-db\n" in unit
    for page in make.PAGES:
        assert (tmp_path / f"usr/local/share/man/man{page[-1]}" / page).is_file()
    assert "_KUBEMINCTL_COMPLETE" in (tmp_path / "usr/local/share/zsh/site-functions/_kubeminctl").read_text()

    again = json.loads(run_program("kubeminctl", "install-service", "--root", str(tmp_path), "-o", "json").stdout)
    assert {item["became"] for item in again["items"]} == {"unchanged", "kept"} and again["commands"] == []
    shown = run_program("kubeminctl", "install-service", "--root", str(tmp_path), "--print")
    assert "TimeoutStopSec=630s" in shown.stdout and "# /etc/sysusers.d/kubemin.conf" in shown.stdout


def test_a_wrong_configuration_does_not_keep_it_from_being_installed(tmp_path: Path) -> None:
    (tmp_path / "etc/kubemin").mkdir(parents=True)
    (tmp_path / "etc/kubemin/kubemin.yaml").write_text("gracefulTimeout: soon\n")
    done = run_program("kubeminctl", "install-service", "--root", str(tmp_path))
    assert done.returncode == 0 and "is not valid" in done.stderr
