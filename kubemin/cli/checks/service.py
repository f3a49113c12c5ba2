"""How the daemon is run and seen: its unit, its HTTP address, the journal behind it."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from collections.abc import Iterator

from kubemin.cli.checks.base import Finding, note, ok, wrong
from kubemin.cli.pool import live_pid
from kubemin.config import Settings
from kubemin.model.durations import parse_duration

STOP_MARGIN = 20.0  # seconds the unit has to give beyond gracefulTimeout: terminating trees, the last commit
HTTP_SECONDS = 3.0
_NOTIFY = ("notify", "notify-reload")
_READ = (
    "Type,KillMode,Delegate,TimeoutStopUSec,WatchdogUSec,Restart,OOMPolicy,RuntimeDirectoryPreserve,NeedDaemonReload"
)
# What loses or repeats work when it is otherwise: the value, and why.
_NEEDED = {
    "KillMode": ("mixed", "a stop would end running steps at once"),
    "Delegate": ("yes", "steps have no control groups of their own"),
}
# What helps: the value, and what it does.
_USEFUL = {
    "OOMPolicy": ("continue", "a step killed for memory ends the daemon as well"),
    "RuntimeDirectoryPreserve": ("restart", "after a kill nobody knows what was running"),
}


def unit(settings: Settings) -> Iterator[Finding]:
    """The unit, where systemd runs the daemon."""
    pid = live_pid(settings)
    name = _unit_of(pid) if pid is not None else None
    if name is None:
        if pid is not None:
            yield note(
                "unit", "the daemon is not run by systemd: nobody restarts it, and no control group is delegated"
            )
        return
    shown = _properties(name)
    if not shown:
        yield note("unit", f"systemctl does not tell about {name}")
        return
    found = list(_judge(name, shown, settings))
    yield from found or [ok("unit", f"{name} fits")]


def _judge(name: str, shown: dict[str, str], settings: Settings) -> Iterator[Finding]:
    for key, (value, why) in _NEEDED.items():
        if shown.get(key) != value:
            yield wrong("unit", f"{name} has {key}={shown.get(key)}: {why}; set {key}={value}, or run install-service")
    for key, (value, why) in _USEFUL.items():
        if shown.get(key) != value:
            yield note("unit", f"{name} has {key}={shown.get(key)}: {why}; set {key}={value}, or run install-service")
    if shown.get("Restart") == "no":
        yield wrong("unit", f"{name} has Restart=no: after a crash accepted work stays where it is; set on-failure")
    if shown.get("WatchdogUSec") in ("0", None):
        yield note("watchdog", f"{name} has no WatchdogSec: a daemon that hangs is not restarted; set WatchdogSec=30s")
    if shown.get("NeedDaemonReload") == "yes":
        yield note("unit", f"{name} was changed on disk and systemd has not read it: systemctl daemon-reload")
    yield from _stop_time(name, shown, settings)


def _stop_time(name: str, shown: dict[str, str], settings: Settings) -> Iterator[Finding]:
    """A daemon of Type=notify asks for the time that a stop takes; any other is cut off."""
    stop, needed = _seconds(shown.get("TimeoutStopUSec", "")), settings.graceful_timeout + STOP_MARGIN
    if shown.get("Type") not in _NOTIFY:
        yield wrong(
            "unit", f"{name} has Type={shown.get('Type')}: starts and stops are not waited for; set Type=notify"
        )
        if stop is not None and stop < needed:
            yield wrong(
                "unit",
                f"{name} has TimeoutStopSec={stop:g}, which cuts gracefulTimeout short; set {needed:g} at least",
            )


def _unit_of(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            parts = [part for line in file for part in line.strip().split("/")]
    except OSError:
        return None
    return next((part for part in reversed(parts) if part.endswith(".service")), None)


def _properties(name: str) -> dict[str, str]:
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        return {}
    command = [systemctl, "show", name, "-p", _READ]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _seconds(text: str) -> float | None:
    """`1min 30s` as systemctl shows it; None for infinity."""
    try:
        return parse_duration(text.replace(" ", "").replace("min", "m"))
    except ValueError:
        return None


def http(settings: Settings) -> Iterator[Finding]:
    """Metrics and health, where they are wanted."""
    if not settings.http_addr or live_pid(settings) is None:
        return
    host, _, port = settings.http_addr.rpartition(":")
    url = f"http://{host or 'localhost'}:{port}/readyz"
    code, text = _get(url)
    if code is None:
        yield wrong("http", f"{url} does not answer ({text}); is the port taken? see the log")
    elif code != 200:
        yield note("http", f"the node is not ready: {'; '.join(text.split(chr(10))).strip('; ')}")
    else:
        yield ok("http", f"metrics and health answer at {settings.http_addr}")
    if not host:
        yield note(
            "http", f"httpAddr {settings.http_addr} is open to everybody who reaches this machine; name an address"
        )


def _get(url: str) -> tuple[int | None, str]:
    import http.client
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=HTTP_SECONDS) as reply:
            return reply.status, reply.read(4096).decode(errors="replace")
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return None, str(getattr(exc, "reason", exc))


def journal(settings: Settings) -> Iterator[Finding]:
    """Whether what is in the journal is still there after a reboot."""
    if os.path.exists("/run/systemd/journal/socket") and not glob.glob("/var/log/journal/*"):
        yield note(
            "journal", "the journal is lost at a reboot; mkdir /var/log/journal, or Storage=persistent, keeps it"
        )
