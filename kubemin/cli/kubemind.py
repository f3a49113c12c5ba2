"""`kubemind`: the daemon, in the foreground. Reads the settings, makes its directories, and becomes the supervisor.

Nothing is imported before it is needed: from exec to ready takes less than 0.3 s. Whatever goes wrong is one line on
standard error and an exit code (docs: 2 configuration or usage, 3 store not usable); a traceback is for the journal.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kubemin import __version__
from kubemin.errors import Invalid, KubeminError, Problem, of_system

EXIT_USAGE = 2
_ACTIONS = {"--check": "check", "--version": "version", "--help": "help", "-h": "help"}
_USAGE = "kubemind [--config FILE] [--check] [SETTING…]"
_ABOUT = """\
The kubemin daemon: runs the workflows of this machine with a supervised pool of worker processes.
It stays in the foreground; a service manager starts it, and kubeminctl talks to it.
"""
_EXAMPLES = """\
Examples:
  kubemind                                   with /etc/kubemin/kubemin.yaml
  kubemind --config ./kubemin.yaml --check   check configuration and workflow files; exit 0 or 2
  kubemind --max-workers 4 --log-level debug
  KUBEMIN_MAX_WORKERS=4 kubemind             the same by the environment

Signals: HUP reloads; TERM stops when running tasks have ended; INT and QUIT stop at once;
USR1 writes the state to the log; USR2 drains; TTIN and TTOU make the pool larger and smaller.
"""


class Options(NamedTuple):
    """What was asked for. `flags` are settings by key."""

    actions: frozenset[str]
    config: str | None
    flags: dict[str, str]


def parse(argv: Sequence[str]) -> Options:
    """`--flag VALUE` or `--flag=VALUE`. Raises Invalid with all that is wrong. (argparse costs 10 ms at each start.)"""
    from kubemin.config.table import TABLE, Kind

    names = {key.flag: key.name for key in TABLE} | {"--config": "", "-c": ""}
    bare = {key.flag for key in TABLE if key.kind is Kind.BOOL}  # `--redis-required` alone means true
    actions: set[str] = set()
    values: dict[str, str] = {}
    wrong: list[str] = []
    rest = deque(argv)
    while rest:
        argument = rest.popleft()
        flag, equals, given = argument.partition("=")
        if argument in _ACTIONS:
            actions.add(_ACTIONS[argument])
        elif flag not in names:
            wrong.append(_unknown(argument))
        elif (value := given if equals else _next_value(rest, bare=flag in bare)) or (value == "" and names[flag]):
            values[names[flag]] = value
        else:
            wrong.append(f"{flag} needs a value; see `kubemind --help`")
    if wrong:
        raise Invalid([Problem("", "usage", text) for text in wrong])
    return Options(frozenset(actions), values.pop("", None), values)


def _next_value(rest: deque[str], *, bare: bool) -> str | None:
    """The argument after a flag, taken from `rest` if it is the flag's value; None: the flag has none."""
    if bare:
        return rest.popleft() if rest and rest[0] in ("true", "false") else "true"
    return rest.popleft() if rest and not rest[0].startswith("--") else None


def _unknown(argument: str) -> str:
    import difflib

    from kubemin.config.table import TABLE

    flags = [*(key.flag for key in TABLE), "--config", *_ACTIONS]
    close = difflib.get_close_matches(argument.split("=")[0], flags, 1)
    hint = f"did you mean {close[0]}?" if close else "see `kubemind --help`"
    return f"unknown argument {argument}; {hint}"


def help_text() -> str:
    from kubemin.config.describe import flags_help

    options = (
        "Options:\n"
        "  -c, --config FILE   configuration file (KUBEMIN_CONFIG; default: /etc/kubemin/kubemin.yaml)\n"
        "  --check             check configuration and workflow files, start nothing\n"
        "  --version           print the version\n"
        "  -h, --help          this text\n"
    )
    settings = f"Settings (flag beats environment beats file beats default):\n{flags_help()}\n"
    return "\n".join((f"Usage: {_USAGE}\n", _ABOUT, _EXAMPLES, options, settings))


# --- the actions --------------------------------------------------------------------------------------------------


def _check(config: str | None, flags: Mapping[str, str]) -> int:
    from kubemin.cli.reload import check, origin
    from kubemin.config.load import config_path

    checked = check(origin(config, flags, os.environ))
    for failure in checked.failures:
        _print_error(failure)
    if checked.failures:
        return EXIT_USAGE
    path = config_path(config, os.environ)
    found = path if os.path.lexists(path) else f"{path} (not there: defaults)"
    _say(f"{found} is valid; valid workflows in {checked.settings.workflows_dir}: {len(checked.definitions)}\n")
    return 0


def _serve(config: str | None, flags: Mapping[str, str]) -> int:
    from kubemin.cli.reload import Checker, origin
    from kubemin.config import host
    from kubemin.config.load import config_path, load_settings
    from kubemin.telemetry import log

    settings = load_settings(config, flags, os.environ)
    log.configure(level=settings.log.level, format=settings.log.format, role="supervisor", node=settings.node_id)
    if problems := host.problems(settings, config_path(config, os.environ)):
        raise Invalid(problems)
    os.umask(0o027)  # the group kubemin may read, nobody else
    host.make_directories(settings)
    from kubemin.modes import in_fleet
    from kubemin.supervisor.process import run_supervisor

    if in_fleet(settings):  # once for all processes; each would pay for it otherwise
        import kubemin.worker.fleet.process  # noqa: F401
        from kubemin.store.redis import preload

        preload(settings)
    checker = Checker(settings, origin(config, flags, os.environ))
    return run_supervisor(settings, config_path=config_path(config, os.environ), reload=checker)


def _run(argv: Sequence[str]) -> int:
    options = parse(argv)
    if "help" in options.actions:
        _say(help_text())
        return 0
    if "version" in options.actions:
        _say(f"kubemind {__version__}\n")
        return 0
    act = _check if "check" in options.actions else _serve
    return act(options.config, options.flags)


# --- the edge -----------------------------------------------------------------------------------------------------


def _open_standard_descriptors() -> None:
    """Whoever started us may have closed 0, 1 or 2; a database that got one of these numbers would get our output."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _ignore_requests_until_ready() -> None:
    """These would end or stop a process that has no handler yet; the supervisor installs its own.

    TERM and INT go on ending it: nothing has begun, and systemd takes an end by SIGTERM for a clean one.
    """
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)


def _say(text: str) -> None:
    """Onto standard output. Raises BrokenPipeError (`kubemind --help | head -1`) or KubeminError (a full disk)."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as exc:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains once more at its end
        if isinstance(exc, BrokenPipeError):
            raise
        raise KubeminError(f"cannot write to standard output: {exc.strerror}") from exc


def _print_error(error: KubeminError) -> None:
    from kubemin.telemetry.journal import started_by_systemd

    level = "<3>" if started_by_systemd() else ""  # sd-daemon(3): an error
    source = f"{error.source}: " if isinstance(error, Invalid) and error.source else ""
    for problem in error.problems:
        print(f"{level}kubemind: {source}{problem}", file=sys.stderr)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code. Shows no traceback."""
    _open_standard_descriptors()
    _ignore_requests_until_ready()
    try:
        return _run(argv)
    except KubeminError as exc:
        _print_error(exc)
        return exc.exit_code
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as exc:
        _print_error(of_system(exc))
        return 1
    except Exception as exc:
        from kubemin.telemetry import log

        log.exception("kubemind failed unexpectedly; please report this", exc)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
