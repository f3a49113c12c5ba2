"""What the settings ask of this machine: directories that can be written, a user that exists.

Only for the daemon and the checks of an operator; a client that reads the same settings needs none of it.
"""

from __future__ import annotations

import os

from kubemin import signing, users
from kubemin.config.settings import Settings
from kubemin.config.table import KEYS
from kubemin.errors import Invalid, Problem

_DIRECTORIES = ("stateDir", "runtimeDir")
_DIRECTORY_MODE = 0o750  # the group (kubemin) may read


def make_directories(settings: Settings) -> None:
    """The state and the runtime directory, 0750, writable by us. Raises Invalid with each that is not."""
    problems = [problem for name in _DIRECTORIES if (problem := _make(name, KEYS[name].of(settings)))]
    if problems:
        raise Invalid(problems)


def _make(name: str, path: str) -> Problem | None:
    try:
        os.makedirs(path, mode=_DIRECTORY_MODE, exist_ok=True)
        return _judge(name, path)
    except OSError as exc:
        return _problem(name, f"cannot make {path}: {exc.strerror}")


def _judge(name: str, path: str) -> Problem | None:
    status = os.stat(path)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK) or os.statvfs(path).f_flag & os.ST_RDONLY:
        return _problem(name, f"{path} cannot be written by {_me()}")
    if status.st_mode & 0o002:
        text = f"everybody may write to {path}, and so run commands as {_me()}; do `chmod o-w {path}`"
        return Problem(name, "unsafe", text)
    return None


def _problem(name: str, text: str) -> Problem:
    return Problem(
        name, "not_writable", f"{text}; make it writable for {_me()}, or name another with {KEYS[name].flag}"
    )


def _me() -> str:
    return users.name_of(os.geteuid())


def problems(settings: Settings, config: str) -> list[Problem]:
    """What would keep a daemon with these settings from its work here, its own directories left aside."""
    return [
        *untrusted(config),
        *untrusted(settings.workflows_dir, "workflowsDir"),
        *_user_problems(settings),
        *_key_problems(settings),
    ]


def untrusted(path: str, field: str = "") -> list[Problem]:
    """Whoever writes these files runs commands as us: that must not be everybody, nor, for root, a mere user."""
    try:
        status = os.stat(path)
    except OSError:  # not there, or it is told elsewhere that it cannot be read
        return []
    if status.st_mode & 0o002:
        code, text = "unsafe", "everybody may write to {path}, and so run commands as {me}; do `chmod o-w {path}`"
    elif os.geteuid() == 0 and status.st_uid != 0:
        code, text = (
            "wrong_owner",
            "{path} belongs to {owner}, who could so run commands as root; do `chown root {path}`",
        )
    else:
        return []
    from kubemin.files.plain import shown_path

    message = text.format(path=shown_path(path), me=_me(), owner=users.name_of(status.st_uid))
    return [Problem(field, code, message)]


def _user_problems(settings: Settings) -> list[Problem]:
    if settings.user is None:
        return []
    if os.geteuid() != 0:
        text = f"steps can run as another user only where the daemon is root, and this is {_me()}; leave it empty"
        return [Problem("user", "not_root", text)]
    if users.find(settings.user) is None:
        return [Problem("user", "no_such_user", f'there is no user "{settings.user}" on this machine')]
    return []


def _key_problems(settings: Settings) -> list[Problem]:
    if settings.signing_key_file is None:
        return []
    try:
        signing.load(settings.signing_key_file)
    except Invalid as exc:
        return list(exc.problems)
    return untrusted(settings.signing_key_file, "signingKeyFile")
