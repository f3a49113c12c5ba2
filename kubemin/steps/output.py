"""A step's output: JSON of at most 64 KiB, from `$KUBEMIN_OUTPUT` or from a Python function's return value.

Neither is trusted: the file may be a link, a FIFO or half a document, the value something that JSON has no form for.
Whatever is taken means the same after a round trip; all else is refused with a sentence that says which.
"""

from __future__ import annotations

import math
import os
import stat
from typing import Any, Final

import msgspec

from kubemin.model.records import OUTPUT_BYTES
from kubemin.model.states import Cause
from kubemin.steps.base import StartFailed

DEPTH: Final = 100  # of nested lists and objects
_PLAIN: Final = frozenset({str, int, bool, type(None)})
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def refused(message: str) -> StartFailed:
    return StartFailed(message, Cause.OUTPUT)


# --- a return value ---------------------------------------------------------------------------------------------------


def encode_result(value: Any) -> bytes:
    """JSON of what a function returned. Raises StartFailed with cause OUTPUT."""
    try:
        body = _encode(value)
        # What msgspec turns into something else (NaN, sets, bytes, dates, keys that are no text) comes back unequal.
        if type(value) not in _PLAIN and _decode(body) != value:
            _check(value, "")
        _check_depth(value, body, "the result")
    except StartFailed:
        raise
    except RecursionError:
        raise _too_deep("the result") from None
    except Exception as error:
        raise refused(f"the result has no JSON form: {error}"[:500]) from None
    if len(body) > OUTPUT_BYTES:
        raise refused(f"the result is {len(body)} bytes as JSON, and at most {OUTPUT_BYTES} are kept; return a path")
    return body


def _check_depth(value: Any, body: bytes, what: str) -> None:
    """As in a workflow file: whatever walks the value later may recurse. `body` is its JSON: few have many brackets."""
    if body.count(b"[") + body.count(b"{") <= DEPTH:
        return
    level = [value]
    for _ in range(DEPTH + 1):
        level = [part for part in level if isinstance(part, dict | list | tuple)]
        if not level:
            return
        level = [item for part in level for item in (part.values() if isinstance(part, dict) else part)]
    raise _too_deep(what)


def _too_deep(what: str) -> StartFailed:
    return refused(f"{what} is nested deeper than {DEPTH} levels")


def _check(value: Any, where: str) -> None:
    """Equal is too strict for tuples, which are lists to JSON: so look at each part."""
    at = f"the result{where}"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise refused(f"{at} has the key {key!r:.100}, and JSON has only text as keys")
            _check(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for n, item in enumerate(value):
            _check(item, f"{where}[{n}]")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise refused(f"{at} is {value}, which JSON cannot hold; return a number or None")
    elif not (value is None or isinstance(value, str | int)):
        raise refused(
            f"{at} is of type {type(value).__name__}, which JSON cannot hold; return text, a number, a list or a dict"
        )


# --- a file -----------------------------------------------------------------------------------------------------------


def read_output(path: str) -> msgspec.Raw | None:
    """The document in `$KUBEMIN_OUTPUT`; None when the step made none. Raises StartFailed with cause OUTPUT."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = "it is a link" if os.path.islink(path) else str(error.strerror)
        raise refused(f"$KUBEMIN_OUTPUT cannot be read: {reason}; write JSON into the file itself") from None
    try:
        content = _content(fd)
    finally:
        os.close(fd)
    return _document(content) if content.strip() else None


def _content(fd: int) -> bytes:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise refused("$KUBEMIN_OUTPUT is no longer a regular file of its own; write JSON into the file itself")
    if status.st_size > OUTPUT_BYTES:
        raise refused(
            f"$KUBEMIN_OUTPUT is {status.st_size} bytes, and at most {OUTPUT_BYTES} are kept; write a path into it"
        )
    return os.read(fd, OUTPUT_BYTES + 1)


def _document(content: bytes) -> msgspec.Raw:
    try:
        text = content.decode("utf-8")
        value = _decode(text)
        body = _encode(value)  # compact, and one document
    except UnicodeDecodeError:
        raise refused("$KUBEMIN_OUTPUT is not UTF-8 text; write JSON into it") from None
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError) as error:
        raise refused(f"$KUBEMIN_OUTPUT is not JSON: {error}") from None
    except RecursionError:
        raise _too_deep("$KUBEMIN_OUTPUT") from None
    if len(body) > OUTPUT_BYTES:
        raise refused(f"$KUBEMIN_OUTPUT is {len(body)} bytes as JSON, and at most {OUTPUT_BYTES} are kept")
    _check_depth(value, body, "$KUBEMIN_OUTPUT")
    return msgspec.Raw(body)
