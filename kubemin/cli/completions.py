"""The completion scripts of shells, as click makes them: for `kubeminctl completion` and for install-service."""

from __future__ import annotations

from click.shell_completion import get_completion_class

from kubemin.cli import kubeminctl, render

SHELLS = ("bash", "zsh", "fish")


def script(shell: str) -> str:
    """One of SHELLS."""
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(kubeminctl.group, {}, render.PROGRAM, "_KUBEMINCTL_COMPLETE").source() + "\n"
