"""Fire schedules: each slot at most once in the whole fleet (promise P5).

A schedule's mark in the store is its last fired (or passed over) slot, an instant in UTC. `Store.fire` raises it and
creates the run in one act, so two leaders at once, a leader that is slow, or a crash in between fire nothing twice:
who comes second finds the mark raised. A slot is *missed* when it is older than the schedule's `grace` at the time it
is looked at; `missed` says what then: `skip` passes over, `once` runs the latest missed slot only, `all` runs each.

Cron, time zones and the readers of files are imported for the first schedule: they would cost each start 25 ms, and a
node without schedules a megabyte.
"""

from __future__ import annotations

from kubemin.clock import SECOND, Micros
from kubemin.errors import Invalid, KubeminError
from kubemin.model import ids
from kubemin.model.graph import Schedule
from kubemin.model.records import Definition, Submission
from kubemin.store.base import Store
from kubemin.telemetry import log

SLOTS_A_CALL = 100  # looked at for one schedule in one call; a longer gap goes on in the next


class Scheduler:
    """Remembers when each schedule fires next, so that an idle look costs nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next: dict[str, Micros] = {}
        self._definitions: dict[str, tuple[Definition, Micros]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the published schedules again: after a reload, and after anything failed."""
        self._definitions = self._store.schedule_marks()
        self._next = {}
        for name, (definition, mark) in self._definitions.items():
            schedule = definition.graph.schedule
            if schedule is not None:
                self._next[name] = _next_slot(schedule, mark)

    def next_due(self) -> Micros | None:
        return min(self._next.values(), default=None)

    def fire_due(self, now: Micros) -> int:
        """Fire what is due; returns the number of runs created. Runs inside the caller's transaction."""
        fired = 0
        for name in [name for name, at in self._next.items() if at <= now]:
            definition, mark = self._definitions[name]
            fired += self._fire(name, definition, mark, now)
        return fired

    def _fire(self, name: str, definition: Definition, mark: Micros, now: Micros) -> int:
        from kubemin.model.schedule import slots_between

        schedule = definition.graph.schedule
        assert schedule is not None
        slots = slots_between(schedule, mark, now, SLOTS_A_CALL)
        following = _next_slot(schedule, slots[-1] if slots else mark)
        fired = 0
        for slot in wanted_slots(schedule, slots, now, all_seen=following > now):
            fired += self._store.fire(name, slot, _submission(definition, slot))
        if slots:
            # Also where the last slot was passed over: the mark says what has been dealt with.
            self._store.fire(name, slots[-1], None)
            mark = slots[-1]
        self._definitions[name] = (definition, mark)
        self._next[name] = following
        return fired


def _next_slot(schedule: Schedule, mark: Micros) -> Micros:
    from kubemin.model.schedule import next_slot

    return next_slot(schedule, mark)


def wanted_slots(schedule: Schedule, slots: list[Micros], now: Micros, *, all_seen: bool) -> list[Micros]:
    """Of slots that are due, those to fire: the timely ones, and the missed ones as the policy says. `all_seen`: no
    later slot is due."""
    oldest_timely = now - int(schedule.grace * SECOND)
    missed = [slot for slot in slots if slot < oldest_timely]
    timely = slots[len(missed) :]
    if schedule.missed == "all":
        return slots
    if schedule.missed == "once" and missed and all_seen and not timely:
        return missed[-1:]
    return timely


def _submission(definition: Definition, slot: Micros) -> Submission | None:
    """The run of one slot, or None (logged) when its parameters have no defaults: the slot is then passed over."""
    from kubemin.files import bind_params

    graph = definition.graph
    try:
        params = bind_params(graph, {})
    except (Invalid, KubeminError) as exc:
        log.error("a schedule cannot fire: give its parameters defaults", workflow=graph.workflow, reason=str(exc))
        return None
    return Submission(
        id=ids.run_id(),
        workflow=graph.workflow,
        definition=definition.hash,
        params=params,
        scheduled_at=slot,
    )
