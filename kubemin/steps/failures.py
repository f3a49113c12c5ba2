"""Why a step could not even be started: the one error that the steps of commands raise among themselves."""

from __future__ import annotations

from kubemin.errors import KubeminError


class CannotStart(KubeminError):
    """Ends the attempt as failed with cause START; the message is shown to the user."""

    code = "start"
