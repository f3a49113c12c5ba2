"""The completion script of a shell."""

from __future__ import annotations

import click

from kubemin.cli import completions, options, render
from kubemin.cli.session import Session


@options.command(
    "completion",
    """
    kubeminctl completion bash > /etc/bash_completion.d/kubeminctl
    kubeminctl completion zsh > "${fpath[1]}/_kubeminctl"
    kubeminctl completion fish > ~/.config/fish/completions/kubeminctl.fish
    """,
)
@click.argument("shell", type=click.Choice(completions.SHELLS))
def command(session: Session, shell: str) -> None:
    """Print the script that lets a shell complete commands and options."""
    source = completions.script(shell).removesuffix("\n")
    if session.json:
        render.document({"shell": shell, "script": source})
    else:
        render.line(source)
