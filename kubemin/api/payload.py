"""What a client sends for a function call: its path, its arguments as JSON, its submission as bytes.

Pure. JSON is all that travels: what JSON cannot hold (NaN, bytes, sets, keys that are not text) is refused here, before
anything is sent, because msgspec on its own would turn it silently into something else. Tuples are lists.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import msgspec

from kubemin.clock import Micros
from kubemin.errors import Invalid, Problem
from kubemin.model.records import PAYLOAD_BYTES

Call = tuple[Sequence[Any], Mapping[str, Any]]  # arguments of one call: ((1,), {"rows": 2})
Function = str | Callable[..., Any]

DEPTH = 100  # of nested lists and objects
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_SCALARS = frozenset({int, str, bool, type(None)})  # always JSON; a float may be NaN
_encode = msgspec.json.Encoder().encode


def function_path(function: Function) -> str:
    """`package.module:function` of a function or of a path given as text. Raises Invalid."""
    if isinstance(function, str):
        if not _PATH.fullmatch(function):
            raise _invalid("function", f'"{function[:200]}" is not of the form package.module:function')
        return function
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name:
        raise _invalid(
            "function", f"{function!r} is not a function that a worker can import; give package.module:function"
        )
    if module == "__main__":
        raise _invalid(
            "function", f"{name} is defined in the main script, which workers cannot import; move it to a module"
        )
    path = f"{module}:{name}"
    if not _PATH.fullmatch(path):
        raise _invalid("function", f"{name} is local or a lambda, which workers cannot import; define it in a module")
    return path


def check_json(value: Any, where: str, depth: int = 0) -> None:
    """Raise Invalid unless `value` is JSON as it stands (tuples count as lists). `where` is for the message."""
    kind = type(value)
    if kind in _SCALARS:
        return
    if kind is float:
        if not math.isfinite(value):
            raise _invalid(where, f"{value} has no JSON form; send a number or null")
    elif depth >= DEPTH:
        raise _invalid(where, f"is nested deeper than {DEPTH} levels")
    elif kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise _invalid(where, f"the key {key!r:.100} is not a text; JSON objects have only such keys")
            check_json(item, f"{where}.{key}", depth + 1)
    elif kind is list or kind is tuple:
        for n, item in enumerate(value):
            check_json(item, f"{where}[{n}]", depth + 1)
    else:
        raise _invalid(where, f"a {kind.__name__} has no JSON form; convert it to text, a number, a list or a dict")


def encode_json(value: Any, where: str) -> bytes:
    """JSON of a checked value. Raises Invalid, also for text that is not Unicode (lone surrogates)."""
    check_json(value, where)
    return _encoded(value, where)


def _encoded(value: Any, where: str) -> bytes:
    try:
        return _encode(value)
    except (UnicodeEncodeError, TypeError, OverflowError, RecursionError) as exc:
        raise _invalid(where, f"has no JSON form: {exc}") from exc


class Template(msgspec.Struct):
    """All that the submissions of one function have in common."""

    python: str
    queue: str = "default"
    timeout: float | None = None
    retry: dict[str, Any] | None = None
    start_at: Micros | None = None
    _keyless: bytes = b""

    def __post_init__(self) -> None:
        self._keyless = self._frame(None)

    def _frame(self, key: str | None) -> bytes:
        """The JSON object without its id and its arguments, from the second member on."""
        fields: dict[str, Any] = {"queue": self.queue} if self.queue != "default" else {}
        for name, value in (
            ("timeout", self.timeout),
            ("retry", self.retry),
            ("start_at", self.start_at),
            ("key", key),
        ):
            if value is not None:
                fields[name] = value
        head = _encoded(fields, "options")[1:-1]
        return b'",' + head + (b"," if head else b"") + b'"work":{"python":' + _encode(self.python)

    def one(self, run: str, args: Sequence[Any], kwargs: Mapping[str, Any], key: str | None = None) -> bytes:
        """One submission."""
        check_json(list(args), "args")
        check_json(dict(kwargs), "with")
        body = (
            b'{"id":"'
            + run.encode()
            + (self._frame(key) if key is not None else self._keyless)
            + _arguments(args, kwargs)
            + b"}}"
        )
        return _bounded(body, "arguments")

    def many(self, ids: Iterable[str], calls: Sequence[Call]) -> list[bytes]:
        """One submission a call; the hot path of `enqueue_many` (under 1 µs each with plain arguments)."""
        check_calls(calls)
        head, frame, encode = b'{"id":"', self._keyless, _encode
        try:
            bodies = [
                b'%b%b%b,"args":%b,"with":%b}}' % (head, run.encode(), frame, encode(args), encode(kwargs))
                for run, (args, kwargs) in zip(ids, calls, strict=False)
            ]
        except (UnicodeEncodeError, TypeError) as exc:
            raise _invalid("items", f"arguments have no JSON form: {exc}") from exc
        if bodies and max(map(len, bodies)) > PAYLOAD_BYTES:
            n = next(n for n, body in enumerate(bodies) if len(body) > PAYLOAD_BYTES)
            _bounded(bodies[n], f"items[{n}]")
        return bodies


def _arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    body = b',"args":' + _encoded(args, "args") if args else b""
    return body + (b',"with":' + _encoded(kwargs, "with") if kwargs else b"")


def _bounded(body: bytes, where: str) -> bytes:
    if len(body) > PAYLOAD_BYTES:
        raise _invalid(where, f"{len(body)} bytes as JSON, and {PAYLOAD_BYTES} at most are taken; pass a path instead")
    return body


def check_calls(calls: Sequence[Call]) -> None:
    """Every item is ((…), {…}) of JSON values. Plain arguments of a whole batch are checked by their types at once."""
    try:
        plain = _all_plain(calls)
    except (TypeError, ValueError, AttributeError):
        plain = False
    if not plain:
        for n, call in enumerate(calls):
            _check_call(call, f"items[{n}]")


def _all_plain(calls: Sequence[Call]) -> bool:
    flat = chain.from_iterable
    if not {type(args) for args, _ in calls} <= {tuple, list} or not {type(kwargs) for _, kwargs in calls} <= {dict}:
        return False
    kinds = set(map(type, flat([args for args, _ in calls])))
    kinds.update(map(type, flat([kwargs.values() for _, kwargs in calls])))
    return kinds <= _SCALARS and set(map(type, flat([kwargs for _, kwargs in calls]))) <= {str}


def _check_call(call: Any, where: str) -> None:
    shaped = type(call) in (tuple, list) and len(call) == 2
    if not shaped or type(call[0]) not in (tuple, list) or type(call[1]) is not dict:
        raise _invalid(where, "an item is a pair of arguments and keywords: ((1, 2), {'rows': 3})")
    check_json(call[0], f"{where}[0]")
    check_json(call[1], f"{where}[1]")


def slices(bodies: Sequence[bytes], count: int, size: int) -> Iterator[Sequence[bytes]]:
    """Cut a batch into parts of at most `count` submissions and about `size` bytes."""
    start, total, length = 0, 0, len(bodies)
    for n, body in enumerate(islice(bodies, length)):
        if n > start and (n - start >= count or total + len(body) > size):
            yield bodies[start:n]
            start, total = n, 0
        total += len(body)
    if start < length:
        yield bodies[start:]


def _invalid(where: str, message: str) -> Invalid:
    return Invalid([Problem(field=where, code="not_json" if where != "function" else "bad_function", message=message)])
