"""kubeminctl: everything an operator does with kubemin besides running the daemon.

A command is a file in `commands/`, imported when it is called. This module finds it, and turns every error into
one line (or one JSON document) and the exit code of design section 7.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from kubemin.cli import render
from kubemin.errors import Invalid, KubeminError, Problem, of_system

COMMANDS = {
    "run": "run a workflow file in the foreground, on a private pool",
    "submit": "start a run of a workflow",
    "runs": "list runs, newest first",
    "show": "one run with its steps",
    "logs": "the kept output of steps",
    "why": "what a run or step waits for, or why it ended",
    "cancel": "stop a run",
    "retry": "run again what did not complete",
    "workflows": "the published workflows",
    "validate": "check workflow files",
    "schedules": "what starts when",
    "queue": "queues and their backlog; pause and resume",
    "status": "the daemon and its workers",
    "top": "the same, live",
    "nodes": "the nodes of the fleet",
    "leader": "which node leads; let it hand over",
    "reload": "read configuration and workflow files again",
    "scale": "change the number of workers",
    "drain": "let workers finish and start nothing",
    "undrain": "end a drain",
    "stop": "stop the daemon",
    "backup": "a consistent copy of the store",
    "doctor": "check this machine and say what to do",
    "install-service": "put the systemd unit and what belongs to it in place",
    "completion": "the completion script of a shell",
}
INTERRUPTED = 130  # 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE


class Lazy(click.Group):
    """Imports a command's module when it is called; the list of commands needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(_module(cmd_name)).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name not in COMMANDS and not ctx.resilient_parsing:
            raise click.UsageError(f"there is no command {name!r}{_did_you_mean(name)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _module(name: str) -> str:
    return f"kubemin.cli.commands.{name.replace('-', '_')}"


def _did_you_mean(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from kubemin import __version__

        render.line(f"{render.PROGRAM} {__version__}")
        ctx.exit()


@click.command(
    cls=Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 the run or check failed, 2 usage or validation, 3 not reachable, 4 no such thing, "
    "5 refused in this state.",
)
@click.option("--config", metavar="FILE", help="Configuration file (default: KUBEMIN_CONFIG, then the machine's).")
@click.option("--state-dir", metavar="DIR", help="Instead of the configuration's stateDir.")
@click.option("--runtime-dir", metavar="DIR", help="Instead of the configuration's runtimeDir.")
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Print the version."
)
@click.pass_context
def group(ctx: click.Context, config: str | None, state_dir: str | None, runtime_dir: str | None) -> None:
    """Submit, look at and control kubemin's workflows, and its daemon on this machine."""
    from kubemin.cli.session import Session

    session = ctx.obj = Session()
    session.config = config
    given = {"stateDir": state_dir, "runtimeDir": runtime_dir}
    session.flags = {name: value for name, value in given.items() if value is not None}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code. Prints every error, raises nothing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    render.prepare()
    try:
        code = _run(arguments)
        render.flush()
        return code
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # or the interpreter's own flush fails at the exit
        return BROKEN_PIPE


def _run(arguments: list[str]) -> int:
    as_json = wants_json(arguments)
    try:
        outcome: Any = group.main(arguments, prog_name=render.PROGRAM, standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except KubeminError as exc:
        render.error(exc, as_json=as_json)
        return exc.exit_code
    except click.exceptions.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as exc:
        render.note(exc.format_message())
        return 2
    except click.ClickException as exc:
        render.error(_usage(exc), as_json=as_json)
        return 2
    except BrokenPipeError:
        raise
    except OSError as exc:
        render.error(of_system(exc), as_json=as_json)
        return 1
    except UnicodeEncodeError as exc:
        render.error(_not_text(exc), as_json=as_json)
        return 2
    except Exception as exc:  # a defect of ours: one line for the user, the rest on request
        if os.environ.get("KUBEMIN_DEBUG"):
            raise
        message = f"internal error, please report it: {type(exc).__name__}: {exc}; KUBEMIN_DEBUG=1 shows where"
        render.error(KubeminError(message, code="internal"), as_json=as_json)
        return 1


def _usage(exc: click.ClickException) -> Invalid:
    message = " ".join(exc.format_message().split()).rstrip(".")
    path = exc.ctx.command_path if isinstance(exc, click.UsageError) and exc.ctx is not None else render.PROGRAM
    return Invalid([Problem(field="", code="usage", message=f"{message}; see {path} --help")])


def _not_text(exc: UnicodeEncodeError) -> Invalid:
    """Python hands over bytes of an argument that are not UTF-8 as half surrogate pairs, which no store takes."""
    return Invalid([Problem(field="", code="usage", message=f"{render.readable(exc.object)} is not UTF-8 text")])


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether `-o json` was asked for, also where the rest of the command line makes no sense."""
    spelled = {"-ojson", "--output=json"}
    pairs = itertools.pairwise(arguments)
    return bool(spelled & set(arguments)) or any(a in ("-o", "--output") and b == "json" for a, b in pairs)


if __name__ == "__main__":
    sys.exit(main())
