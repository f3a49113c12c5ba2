"""Calls of Python functions as tasks: one, many in one commit, or one an item with a step that takes the results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kubemin.api.options import Duration, Instant, RetryPolicy, queue_name, retry_policy, run_key, seconds, start_at
from kubemin.api.payload import Call, Function, Template, encode_json, function_path
from kubemin.api.run import Run
from kubemin.errors import Invalid, NotDurable
from kubemin.model.ids import run_id, run_ids

if TYPE_CHECKING:
    from kubemin.client import Client


class Options:
    """How calls are to be run: `client.options(queue="etl", retry=3).enqueue(…)`. Beats what `@kubemin.task` says.

    `retry`: attempts after the first, or {"limit", "delay", "factor", "maxDelay", "causes"}. `timeout`, `delay`: in
    seconds, or "5m". `at`: a datetime (without a zone: local time) or RFC 3339 text. `key`: a second submission with it
    is the first run.
    """

    def __init__(
        self,
        client: Client,
        *,
        queue: str | None = None,
        timeout: Duration | None = None,
        retry: RetryPolicy | None = None,
        key: str | None = None,
        delay: Duration | None = None,
        at: Instant | None = None,
    ) -> None:
        self._client = client
        self._chosen = {"queue": queue, "timeout": timeout, "retry": retry}
        self._key = run_key(key)
        self._start_at = start_at(delay, at)
        self._templates: dict[str, Template] = {}  # of functions given by path: without a decorator, they never change

    def enqueue(self, function: Function, *args: Any, **kwargs: Any) -> Run:
        """One Python task, accepted when this returns. Raises Invalid, Refused, Unreachable."""
        run = run_id()
        return self._client.submit_bodies([self.template(function).one(run, args, kwargs, self._key)])[0]

    def enqueue_many(self, function: Function, calls: Iterable[Call]) -> list[Run]:
        """One task for each ((arguments), {keywords}), accepted in one commit: all or none. Runs in the same order."""
        if self._key is not None:
            raise Invalid("a key names one run; enqueue_many takes none")
        calls = calls if isinstance(calls, list) else list(calls)
        ids = list(run_ids(len(calls)))
        try:
            self._client.submit_many(self.template(function).many(ids, calls))
        except NotDurable as exc:
            exc.runs = tuple(ids)
            raise
        return [Run(self._client, run) for run in ids]

    def map(self, function: Function, items: Iterable[Any], then: Function | None = None) -> Run:
        """One task an item and then one with the list of their results, as one run.

        Its `result` is what `then` returned, or the list. A failed item does not stop the others; `then` runs when all
        completed. `outputs` has the steps `each` (the list) and `then`.
        """
        from kubemin.api.inline import ITEMS, map_definition

        definition = map_definition(self.template(function), None if then is None else self.template(then))
        params = {ITEMS: list(items)}
        encode_json(params[ITEMS], "items")
        return self._client.submit_definition(definition, params, self._key, self._start_at)

    def template(self, function: Function) -> Template:
        if isinstance(function, str):
            known = self._templates.get(function)
            if known is None:
                known = self._templates[function] = self._make(function, {})
            return known
        return self._make(function, decorated(function))

    def _make(self, function: Function, said: dict[str, Any]) -> Template:
        chosen = said | {name: value for name, value in self._chosen.items() if value is not None}
        timeout = chosen.get("timeout")
        return Template(
            python=function_path(function),
            queue=queue_name(chosen.get("queue") or "default"),
            timeout=None if timeout is None else seconds(timeout, "timeout"),
            retry=retry_policy(chosen.get("retry")),
            start_at=self._start_at,
        )


def decorated(function: Function) -> dict[str, Any]:
    """What `@kubemin.task(queue=…, timeout=…, retry=…)` said about a function."""
    return dict(getattr(function, "__kubemin__", {}))
