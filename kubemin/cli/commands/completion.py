"""The completion script of a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from kubemin.cli import options, render
from kubemin.cli.session import Session


@options.command(
    "completion",
    """
    kubeminctl completion bash > /etc/bash_completion.d/kubeminctl
    kubeminctl completion zsh > "${fpath[1]}/_kubeminctl"
    kubeminctl completion fish > ~/.config/fish/completions/kubeminctl.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, session: Session, shell: str) -> None:
    """Print the script that lets a shell complete commands and options."""
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root().command
    source = kind(root, {}, render.PROGRAM, "_KUBEMINCTL_COMPLETE").source()
    if session.json:
        render.document({"shell": shell, "script": source})
    else:
        render.line(source)
