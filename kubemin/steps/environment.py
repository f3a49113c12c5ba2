"""The environment a step starts with: clean, complete, and with its secrets read at the last moment (engine rule 27).

Nothing of the daemon's own environment goes through but PATH, LANG and TZ: no settings, no NOTIFY_SOCKET, no
credentials. The only module of the steps that reads secrets.
"""

from __future__ import annotations

import os
import re
import stat
import zlib
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import msgspec

from kubemin import users
from kubemin.config.table import TABLE
from kubemin.model.names import SECRET
from kubemin.model.records import Claim
from kubemin.steps.base import StartFailed

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECRET_BYTES: Final = 64 * 1024  # what fits into an environment variable with room to spare
_DAEMONS: Final = frozenset(  # what systemd tells the daemon, and where its settings are
    (
        *("KUBEMIN_CONFIG", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM"),
        *("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CONFIGURATION_DIRECTORY", "CREDENTIALS_DIRECTORY"),
        *("LOGS_DIRECTORY", "CACHE_DIRECTORY", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "SYSTEMD_EXEC_PID"),
    )
)
_SETTINGS: Final = frozenset(variable for key in TABLE for variable in key.variables)
_SECRET_NAME: Final = re.compile(SECRET)


class Environment(msgspec.Struct, frozen=True):
    """`values` of all variables; `masks`: the secrets among them, longest first."""

    values: dict[str, str]
    masks: tuple[str, ...] = ()


def instance_marker(state_dir: str) -> str:
    """Which daemon a process belongs to: the same after every restart, so that what a `kill -9` of everything left is
    found. KUBEMIN_INSTANCE in the environment of all that steps start."""
    path = os.fsencode(os.path.realpath(state_dir))
    return f"{zlib.crc32(path):08x}{zlib.crc32(path[::-1]):08x}"  # few paths on one machine; OpenSSL would be 2 MB


def base_environment(user: str | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What every command of this worker starts with. Looks the user up, so not for a forked child."""
    base = {
        "PATH": environ.get("PATH") or DEFAULT_PATH,
        "HOME": _home(user, environ),
        "LANG": environ.get("LANG") or "C.UTF-8",
    }
    if environ.get("TZ"):
        base["TZ"] = environ["TZ"]
    return base


def prepare_process(marker: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """In a worker: what its Python steps find, and hand on to what they start. None of the daemon's settings or
    credentials, and the marker, by which their children are found when everything else was killed."""
    for name in list(environ):
        if name in _SETTINGS or name in _DAEMONS:
            del environ[name]
    environ["KUBEMIN_INSTANCE"] = marker


def task_variables(claim: Claim, marker: str) -> dict[str, str]:
    """What a step is told about itself. KUBEMIN_TOKEN rises with every attempt, so what it writes can be fenced."""
    return {
        "KUBEMIN_TASK": claim.task,
        "KUBEMIN_RUN": claim.run,
        "KUBEMIN_STEP": claim.step,
        "KUBEMIN_WORKFLOW": claim.workflow,
        "KUBEMIN_TOKEN": str(claim.token),
        "KUBEMIN_ATTEMPT": str(claim.attempt),
        "KUBEMIN_INSTANCE": marker,
    }


def step_environment(env: Any, secrets_dir: str | None) -> Environment:
    """A step's own `env`, with secrets read. Raises StartFailed, naming the variable."""
    if not isinstance(env, Mapping):
        raise StartFailed("env must be a mapping of names to values")
    values: dict[str, str] = {}
    secrets: set[str] = set()
    for name, value in env.items():
        if isinstance(value, Mapping):
            values[name] = read_secret(name, value.get("secret"), secrets_dir)
            secrets.add(values[name])
        else:
            values[name] = _passable(name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
    return Environment(values, tuple(sorted(secrets - {""}, key=len, reverse=True)))


def _passable(variable: str, value: str) -> str:
    """The compiler refuses a NUL, and cannot see one that a reference brings in."""
    if "\0" in value:
        raise StartFailed(f"env.{variable} holds a NUL character, which cannot be passed to a program")
    return value


def read_secret(variable: str, secret: Any, secrets_dir: str | None) -> str:
    """The secret's file without its last newline. Raises StartFailed; no message holds any of its content."""
    if not isinstance(secret, str) or not _SECRET_NAME.fullmatch(secret):
        raise StartFailed(f"env.{variable}: a secret is named by a file name of letters, digits, '.', '_' and '-'")
    if not secrets_dir:
        raise StartFailed(
            f'env.{variable}: there is no place for the secret "{secret}"; set secretsDir in the configuration, '
            f"or give the unit LoadCredential={secret}:FILE"
        )
    where = os.path.join(secrets_dir, secret)
    try:
        content = _read(where)
        text = content.decode("utf-8")
    except FileNotFoundError:
        raise StartFailed(f'env.{variable}: the secret "{secret}" is not in {secrets_dir}; put it there') from None
    except OSError as error:
        raise StartFailed(f"env.{variable}: cannot read the secret {where}: {error.strerror}") from None
    except ValueError:
        raise StartFailed(f"env.{variable}: the secret {where} is not UTF-8 text") from None
    if len(content) > SECRET_BYTES or "\0" in text:
        raise StartFailed(f"env.{variable}: the secret {where} is over {SECRET_BYTES} bytes, or holds a NUL")
    return text.removesuffix("\n").removesuffix("\r")


def _read(where: str) -> bytes:
    fd = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(0, "it is no regular file")
        return os.read(fd, SECRET_BYTES + 1)
    finally:
        os.close(fd)


def _home(user: str | None, environ: Mapping[str, str]) -> str:
    entry = users.find(user) if user else users.by_number(os.geteuid())
    if entry is not None:
        return entry.pw_dir
    # A container's bare uid; an unknown `user` is told when the step starts.
    return "/" if user else environ.get("HOME") or "/"
