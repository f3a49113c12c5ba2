"""Defaults that depend on the machine: where the file is, where state goes, what this node is called.

systemd names the directories it made (systemd.exec(5)) in STATE_, RUNTIME_, CONFIGURATION_ and CREDENTIALS_DIRECTORY;
else root has the system's directories and everybody else those of the XDG base directory specification. Who reads the
system's configuration file means the system's daemon, whoever he is: so that a member of group kubemin finds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

SYSTEM_CONFIG = "/etc/kubemin/kubemin.yaml"
SYSTEM_STATE = "/var/lib/kubemin"
SYSTEM_RUNTIME = "/run/kubemin"
SYSTEM_CREDENTIALS = "/run/credentials/kubemin.service"  # of the unit while it runs: for root and the daemon's user
_FILE = "kubemin.yaml"


def _systemd(environ: Mapping[str, str], name: str) -> str | None:
    """The first of the directories that systemd gives, or None."""
    return environ.get(name, "").split(":")[0] or None


def _xdg(environ: Mapping[str, str], name: str, fallback: str) -> str:
    """An XDG base directory; a relative one is to be ignored, says the specification."""
    given = environ.get(name, "")
    home = environ.get("HOME") or os.path.expanduser("~")
    return given if os.path.isabs(given) else os.path.join(home, fallback)


def config_file(environ: Mapping[str, str]) -> str:
    """Where the configuration is looked for when none is named. It need not exist."""
    if folder := _systemd(environ, "CONFIGURATION_DIRECTORY"):
        return os.path.join(folder, _FILE)
    own = os.path.join(_xdg(environ, "XDG_CONFIG_HOME", ".config"), "kubemin", _FILE)
    return own if os.geteuid() != 0 and os.path.exists(own) else SYSTEM_CONFIG


def machine(environ: Mapping[str, str], config: str) -> dict[str, str | None]:
    """The keys whose default the machine decides. `config` is the file in force, or where it would be."""
    system = os.geteuid() == 0 or (config == SYSTEM_CONFIG and os.path.exists(config))
    state = SYSTEM_STATE if system else os.path.join(_xdg(environ, "XDG_STATE_HOME", ".local/state"), "kubemin")
    runtime = SYSTEM_RUNTIME if system else _user_runtime(environ, state)
    credentials = _systemd(environ, "CREDENTIALS_DIRECTORY") or (_unit_credentials() if system else None)
    return {
        "nodeId": os.uname().nodename,
        "stateDir": _systemd(environ, "STATE_DIRECTORY") or state,
        "runtimeDir": _systemd(environ, "RUNTIME_DIRECTORY") or runtime,
        "workflowsDir": os.path.join(os.path.dirname(config), "workflows.d"),
        "secretsDir": credentials,
        "redisPasswordFile": _credential(credentials, "redis-password"),
        "signingKeyFile": _credential(credentials, "signing-key"),
    }


def _user_runtime(environ: Mapping[str, str], state: str) -> str:
    given = environ.get("XDG_RUNTIME_DIR", "")
    usual = f"/run/user/{os.geteuid()}"
    if os.path.isabs(given):
        return os.path.join(given, "kubemin")
    return os.path.join(usual, "kubemin") if os.access(usual, os.W_OK) else os.path.join(state, "run")


def _unit_credentials() -> str | None:
    """What the installed unit was given: root's kubeminctl reaches a fleet's Redis with the daemon's password."""
    return SYSTEM_CREDENTIALS if os.access(SYSTEM_CREDENTIALS, os.R_OK | os.X_OK) else None


def _credential(folder: str | None, name: str) -> str | None:
    path = os.path.join(folder, name) if folder else ""
    return path if path and os.path.exists(path) else None
