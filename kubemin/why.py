"""Why a run or a task is in the state it is in: the exact blocking condition as a stable code.

Pure: facts from the store (`Reader.obstacles`) and about the daemon's pool go in, reasons come out. It touches nothing.
Every code is in `CODES` with what it means; tools may rely on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from kubemin.clock import SECOND, Micros, rfc3339
from kubemin.model.obstacles import Obstacles, TaskFacts
from kubemin.model.states import RUN_TERMINAL, Cause, RunState, TaskState

CODES = {
    "no_daemon": "no daemon works on this state directory; object: the directory",
    "draining": "the daemon is drained: workers claim nothing; object: the node",
    "stopping": "the daemon is stopping; object: the node",
    "not_due": "its start time has not come; object: the time",
    "concurrency_key": "another run holds its concurrency key; object: that run",
    "unpacking": "a large graph or batch is still being unpacked; object: the run",
    "cancelling": "it is being stopped and running steps have not ended; object: the run",
    "needs": "a step it needs has not ended; object: that step",
    "retry_backoff": "it failed and waits for its next attempt; object: the time",
    "queue_paused": "its queue is paused; object: the queue",
    "queue_not_served": "this node does not serve its queue; object: the queue",
    "run_window": "enough tasks of the same run stand in the queue already; object: the run",
    "behind_in_queue": "other tasks come first; object: the queue",
    "workers_busy": "it is the next of its queue and every worker is busy; object: the queue",
    "starting": "it is the next of its queue and about to start; object: the queue",
    "running": "a worker executes it; object: the worker's slot, in a fleet NODE/SLOT",
    "max_parallel": "a forEach step has as many items in progress as maxParallel allows; object: the step",
    "items": "a forEach step waits for its items; object: the step",
    "deciding": "its needs have ended and what follows is being decided; object: the step",
    "completed": "it completed; object: the run or step",
    "failed": "it failed; object: the run, or the step that failed",
    "timeout": "it ran out of time; object: the run or step",
    "cancelled": "it was cancelled; object: the run or step",
    "skipped": "it was skipped; object: the step that caused it, or the step itself",
}


class Reason(msgspec.Struct, frozen=True):
    """`object` is the id of what blocks; `step` the task spoken of, empty for the run itself."""

    code: str
    object: str
    message: str
    step: str = ""


class Pool(msgspec.Struct, frozen=True):
    """What scoreboard and configuration say about the daemon of this node; of a fleet, what its heartbeats say."""

    node: str = ""
    who: str = "this node"
    state_dir: str = ""
    alive: bool = True
    drained: bool = False
    stopping: bool = False
    queues: tuple[str, ...] = ("default",)  # served here
    idle: int = 0  # workers without a task
    workers: int = 0
    seconds: dict[int, float] = {}  # slot -> how long it has been executing its task


def explain(facts: Obstacles, pool: Pool, *, now: Micros, step: str | None = None) -> list[Reason]:
    """Reasons, the outermost first; never empty. With `step` they are about that task alone."""
    if step is not None:
        return _explain_step(facts, pool, now, step)
    if facts.state in RUN_TERMINAL:
        return [_ended_run(facts)]
    return [*_daemon(pool), *_run(facts, pool, now)] or [
        _reason("deciding", facts.run, "what follows is being decided")
    ]


def _explain_step(facts: Obstacles, pool: Pool, now: Micros, step: str) -> list[Reason]:
    found = [task for task in facts.tasks if task.step == step]
    ended = [_ended_task(task) for task in found if task.state in _ENDED]
    if ended:
        return ended
    held = list(_held_run(facts, now))
    return [*_daemon(pool), *(held or (reason for task in found for reason in _task(task, facts, pool, now)))]


def _reason(code: str, thing: str, message: str, step: str = "") -> Reason:
    assert code in CODES
    return Reason(code, thing, message, step)


# --- the daemon ---


def _daemon(pool: Pool) -> Iterator[Reason]:
    if not pool.alive:
        yield _reason("no_daemon", pool.state_dir, f"no daemon is running on {pool.state_dir}; start it: kubemind")
    elif pool.stopping:
        yield _reason("stopping", pool.node, "the daemon is stopping; work goes on after its next start")
    elif pool.drained:
        yield _reason("draining", pool.node, "the daemon is drained and starts nothing; kubeminctl undrain ends that")


# --- runs ---


def _run(facts: Obstacles, pool: Pool, now: Micros) -> Iterator[Reason]:
    held = list(_held_run(facts, now))
    yield from held
    if held and facts.state is RunState.WAITING:
        return  # no task of it can go on, so theirs would be the same reason again and again
    yield from _without_repeats(facts, pool, now)


def _without_repeats(facts: Obstacles, pool: Pool, now: Micros) -> Iterator[Reason]:
    """Tasks that wait for other listed tasks say nothing new; of tasks held up by one thing the first speaks."""
    listed = {task.step for task in facts.tasks}
    seen: set[tuple[str, str]] = set()
    for task in facts.tasks:
        for reason in _task(task, facts, pool, now):
            known = (reason.code, reason.object)
            if known not in seen and not (reason.code == "needs" and reason.object in listed):
                seen.add(known)
                yield reason


def _held_run(facts: Obstacles, now: Micros) -> Iterator[Reason]:
    if facts.cancelling:
        yield _reason(
            "cancelling", facts.run, f"the run is being stopped ({facts.cancelling}); running steps have to end first"
        )
    if facts.state is RunState.WAITING and facts.start_at is not None and facts.start_at > now:
        yield _reason(
            "not_due", _time(facts.start_at), f"the run starts at {_time(facts.start_at)}, {_in(facts.start_at, now)}"
        )
    if facts.held_by is not None:
        yield _key(facts)
    if facts.unpacked < facts.total:
        yield _reason(
            "unpacking", facts.run, f"{facts.unpacked} of {facts.total} steps are unpacked; it starts when all are"
        )


def _key(facts: Obstacles) -> Reason:
    ahead = f", and {facts.ahead} more run(s) wait before it" if facts.ahead else ""
    return _reason(
        "concurrency_key",
        facts.held_by or "",
        f"run {facts.held_by} holds the concurrency key {facts.concurrency_key!r}{ahead}",
    )


_RUN_CAUSES = {
    Cause.CRASH: "a step was quarantined: its worker was killed under it too often",
    Cause.REPLACED: "a newer run with the same concurrency key replaced it",
    Cause.RUN_TIMEOUT: "the run's own time-out passed",
}


def _ended_run(facts: Obstacles) -> Reason:
    if facts.state is RunState.COMPLETED:
        return _reason("completed", facts.run, "the run completed")
    if facts.state is RunState.FAILED:
        return _failed_run(facts)
    why = _RUN_CAUSES.get(facts.cause or "", facts.cause or "")  # type: ignore[call-overload]
    return _reason(facts.state.value, facts.run, f"the run ended {facts.state.value}" + (f": {why}" if why else ""))


def _failed_run(facts: Obstacles) -> Reason:
    sums = {task.step for task in facts.tasks if task.cause == Cause.GROUP}  # a forEach step: its items tell more
    failed = sorted(facts.failed, key=lambda step: step in sums)
    first = failed[0] if failed else facts.run
    told = next((task for task in facts.tasks if task.step == first), None)
    detail = _story(told) if told is not None else f"failed ({facts.cause})" if facts.cause else "failed"
    also = f"; also failed: {', '.join(failed[1:6])}" if len(failed) > 1 else ""
    return _reason("failed", first, f"step {first} {detail}{also}; kubeminctl retry {facts.run} runs it again")


# --- tasks ---


def _task(task: TaskFacts, facts: Obstacles, pool: Pool, now: Micros) -> Iterator[Reason]:
    match task.state:
        case TaskState.WAITING:
            yield from _waiting(task, now)
        case TaskState.QUEUED:
            yield _queued(task, facts, pool)
        case TaskState.RUNNING:
            yield _running(task, pool, now)
        case _:
            yield _ended_task(task)


def _waiting(task: TaskFacts, now: Micros) -> Iterator[Reason]:
    if task.due_at is not None:
        yield _backoff(task, task.due_at, now)
    elif not task.needs:
        yield _reason(
            "deciding", task.step, f"step {task.step} has no open needs; its turn is being decided", task.step
        )
    for need in task.needs:
        message = f"step {task.step} needs {need.step}, which is {need.state.value}"
        yield _reason("needs", need.step, message, task.step)


def _backoff(task: TaskFacts, due: Micros, now: Micros) -> Reason:
    of = f" of {task.attempts}" if task.attempts else ""
    last = f"; the last one ended {_story(task)}" if task.cause or task.message else ""
    message = f"step {task.step}: attempt {task.attempt + 1}{of} is due at {_time(due)}, {_in(due, now)}{last}"
    return _reason("retry_backoff", _time(due), message, task.step)


def _queued(task: TaskFacts, facts: Obstacles, pool: Pool) -> Reason:
    step, queue = task.step, task.queue
    if queue in facts.paused:
        return _reason("queue_paused", queue, f"queue {queue} is paused; kubeminctl queue resume {queue}", step)
    if queue not in pool.queues:
        message = f"{pool.who} serves {', '.join(pool.queues)}, not {queue}; add it to `queues` in the configuration"
        return _reason("queue_not_served", queue, message, step)
    if not task.listed:
        message = f"step {step} waits inside its run: enough of the run's tasks stand in queue {queue} already"
        return _reason("run_window", facts.run, message, step)
    return _listed(task, pool)


def _listed(task: TaskFacts, pool: Pool) -> Reason:
    step, queue = task.step, task.queue
    if task.position:
        message = f"{task.position} task(s) come before step {step} in queue {queue}"
        return _reason("behind_in_queue", queue, message, step)
    if pool.alive and pool.workers and not pool.idle:
        message = f"step {step} is the next of queue {queue}; all {pool.workers} workers are busy"
        return _reason("workers_busy", queue, message, step)
    return _reason("starting", queue, f"step {step} is the next of queue {queue}", step)


def _running(task: TaskFacts, pool: Pool, now: Micros) -> Reason:
    if task.kind == "fanout":
        return _fanout(task)
    seconds = pool.seconds.get(task.slot, -1.0) if task.slot is not None else -1.0
    if seconds < 0 and task.started_at is not None:
        seconds = max(0.0, (now - task.started_at) / SECOND)
    how_long = f" for {seconds:.0f} s" if seconds >= 0 else ""
    slot = "" if task.slot is None else str(task.slot)
    worker = f"worker {slot} of {task.host}" if task.host else f"worker {slot}"
    message = f"{worker} has been executing step {task.step}{how_long}, attempt {task.attempt}"
    return _reason("running", f"{task.host}/{slot}" if task.host else slot, message, task.step)


def _fanout(task: TaskFacts) -> Reason:
    live, total, ended = task.children_live or 0, task.children_total, task.children_ended or 0
    progress = f"{live} item(s) of step {task.step} are in progress, {ended} ended" + (f" of {total}" if total else "")
    left = total is None or total > live + ended
    if task.max_parallel is not None and live >= task.max_parallel and left:
        return _reason("max_parallel", task.step, f"{progress}; maxParallel is {task.max_parallel}", task.step)
    return _reason("items", task.step, progress, task.step)


# --- what has ended ---


def _ended_task(task: TaskFacts) -> Reason:
    return _ENDED[task.state](task)


def _story(task: TaskFacts) -> str:
    """`failed (exit, exit code 3): message`, as far as known."""
    state = task.state.value if task.state in _ENDED else "failed"
    details = [task.cause or ""]
    details.append(f"exit code {task.exit_code}" if task.exit_code is not None else "")
    details.append(f"signal {task.signal}" if task.signal is not None else "")
    told = ", ".join(detail for detail in details if detail)
    message = "" if task.message in details else task.message
    return state + (f" ({told})" if told else "") + (f": {message}" if message else "")


def _plain(task: TaskFacts) -> Reason:
    return _reason(task.state.value, task.step, f"step {task.step} {_story(task)}", task.step)


def _skipped(task: TaskFacts) -> Reason:
    if task.cause == Cause.CONDITION:
        message = f"step {task.step} was skipped: its `when` did not hold, which is no failure"
        return _reason("skipped", task.step, message, task.step)
    if task.blamed:
        message = f"step {task.step} was skipped because {task.blamed} did not complete"
        return _reason("skipped", task.blamed, message, task.step)
    message = f"step {task.step} was skipped because something it needs did not complete"
    return _reason("skipped", task.step, message, task.step)


_ENDED: dict[TaskState, Callable[[TaskFacts], Reason]] = {
    TaskState.COMPLETED: _plain,
    TaskState.FAILED: _plain,
    TaskState.TIMEOUT: _plain,
    TaskState.CANCELLED: _plain,
    TaskState.SKIPPED: _skipped,
}


def _time(at: Micros) -> str:
    return rfc3339(at) or ""


def _in(at: Micros, now: Micros) -> str:
    seconds = max(0.0, (at - now) / SECOND)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"in {seconds / size:.0f} {unit}"
    return f"in {seconds:.0f} s"
