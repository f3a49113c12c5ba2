"""Secrets in what is kept of a step's end: its JSON output and the sentence about its failure.

Its streams are masked as they come in, by the same rule (`capture.Masks`). Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from kubemin.steps.base import Ended
from kubemin.steps.capture import Masks


def hide_secrets(secrets: Sequence[str], ended: Ended, output: msgspec.Raw | None) -> tuple[Ended, msgspec.Raw | None]:
    """Both with `***` where a secret stood: they are stored, and shown to whoever may read runs."""
    if not secrets:
        return ended, output
    masks = Masks(secrets)
    ended = msgspec.structs.replace(ended, message=_hidden(ended.message, masks))
    if output is not None:
        output = msgspec.Raw(msgspec.json.encode(_hidden(msgspec.json.decode(output), masks)))
    return ended, output


def _hidden(value: Any, masks: Masks) -> Any:
    """Texts only: in a number or in the JSON around it there is nothing to replace that would still be JSON."""
    if isinstance(value, str):
        return masks.apply(value.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")
    if isinstance(value, list):
        return [_hidden(item, masks) for item in value]
    if isinstance(value, dict):
        return {_hidden(key, masks): _hidden(item, masks) for key, item in value.items()}
    return value
