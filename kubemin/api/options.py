"""What a Python caller may say about a run, turned into what a submission holds. Pure, but for the clock.

Durations are seconds or text (`"5m"`), instants datetimes or RFC 3339 text, a retry policy is a number or a mapping.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from kubemin import clock
from kubemin.clock import SECOND, Micros
from kubemin.errors import Invalid, Problem
from kubemin.model.durations import LONGEST, parse_duration
from kubemin.model.graph import Retry
from kubemin.model.instants import from_datetime, parse_instant, parse_since
from kubemin.model.names import QUEUE, QUEUE_SHAPE
from kubemin.model.states import RunState

KEY_CHARACTERS = 512
_CONTROL = re.compile(r"[\x00-\x1f\x7f]").search
Duration = float | str | timedelta  # seconds, or text such as "5m"
Instant = datetime | str  # a datetime without a zone is local time
RetryPolicy = int | Mapping[str, Any]  # attempts after the first, or {"limit": 3, "delay": "5s", …}


def invalid(field: str, message: str) -> Invalid:
    return Invalid([Problem(field=field, code="invalid", message=message)])


def seconds(duration: Duration, field: str) -> float:
    """Raises Invalid for what is no duration, or is negative."""
    try:
        value = duration.total_seconds() if isinstance(duration, timedelta) else duration
        value = parse_duration(value) if isinstance(value, str) else float(value)
    except (ValueError, TypeError) as exc:
        raise invalid(field, str(exc)) from exc
    if not value >= 0:
        raise invalid(field, f"{value} is not a duration; it must not be negative")
    if value > LONGEST:
        raise invalid(field, f"{value:g} seconds are too long; the longest duration is 36500d")
    return value


def queue_name(queue: str) -> str:
    """Raises Invalid for what no queue can be called."""
    if not isinstance(queue, str) or not re.fullmatch(QUEUE, queue):
        raise invalid("queue", f'"{queue!s:.100}" is not a queue\'s name; use {QUEUE_SHAPE}')
    return queue


def run_key(key: str | None) -> str | None:
    """Raises Invalid for what is no key: nothing, or more than a line of text."""
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= KEY_CHARACTERS and not _CONTROL(key)):
        raise invalid("key", f"a key is one line of text, 1 to {KEY_CHARACTERS} characters")
    return key


def start_at(delay: Duration | None, at: Instant | None) -> Micros | None:
    """When a run is to start; None: at once. Raises Invalid."""
    if delay is not None and at is not None:
        raise invalid("at", "give either delay or at, not both")
    if delay is not None:
        return clock.wall() + round(seconds(delay, "delay") * SECOND)
    return None if at is None else instant(at, "at")


def instant(at: Instant, field: str) -> Micros:
    try:
        return parse_instant(at) if isinstance(at, str) else from_datetime(at)
    except (ValueError, AttributeError, TypeError) as exc:
        raise invalid(field, str(exc)) from exc


def past(since: Instant | None, field: str) -> Micros | None:
    """An instant, or text that says how long ago (`1h`). Raises Invalid."""
    if not isinstance(since, str):
        return None if since is None else instant(since, field)
    try:
        return parse_since(since, clock.wall())
    except ValueError as exc:
        raise invalid(field, str(exc)) from exc


def run_state(status: str) -> RunState:
    try:
        return RunState(status)
    except ValueError:
        raise invalid("status", f'"{status}" is not one of {", ".join(RunState)}') from None


def retry_policy(retry: RetryPolicy | None) -> dict[str, Any] | None:
    """A policy as `Submission.retry` holds it. Raises Invalid."""
    if retry is None:
        return None
    given: dict[str, Any] = (
        {_SNAKE.get(k, k): v for k, v in retry.items()} if isinstance(retry, Mapping) else {"limit": retry}
    )
    for name in ("delay", "max_delay"):
        if name in given:
            given[name] = seconds(given[name], f"retry.{name}")
    try:
        policy = msgspec.convert(given, _StrictRetry)
    except msgspec.ValidationError as exc:
        raise invalid("retry", f"{exc}; a policy is a number, or has limit, delay, factor, maxDelay, causes") from exc
    if policy.limit < 0:
        raise invalid("retry.limit", "must not be negative")
    return dict(msgspec.to_builtins(policy))


class _StrictRetry(Retry, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    pass


_SNAKE = {"maxDelay": "max_delay"}
