"""The coordinator's keeper: forks it, restarts it, tells it who lives and who died.

A coordinator may die or hang at any moment. What it was not told waits in the link; what it was told it may not have
committed. So a new one is told all living workers, then also the recent dead with their channels (which may hold
their last reports), and then the deaths. Repeating a death is harmless: the store retires an incarnation once.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from kubemin import processes
from kubemin.channel import packet_pair
from kubemin.exits import EXIT_NO_ROOM, EXIT_STORE_UNUSABLE, EXIT_SWITCH
from kubemin.proctitle import set_title
from kubemin.scoreboard import SlotRecord
from kubemin.supervisor import signals
from kubemin.supervisor.forking import Child
from kubemin.supervisor.link import Link, Message
from kubemin.supervisor.node import Node
from kubemin.supervisor.silence import Silence
from kubemin.supervisor.slots import Life, ending, jittered
from kubemin.telemetry import log

YOUNG = 5.0  # seconds: a coordinator that dies sooner is restarted after a pause
PAUSES = (0.0, 0.1, 0.2, 0.4, 0.7)  # seconds; promise P3 wants it back within 1 s
ROOM_PAUSE = 1.0  # between looks whether a full disk has room again
FATAL_PAUSE = 10.0  # the same when it was ready once and now finds its store unusable
CANNOT_START = 5  # deaths in a row with none ever ready: give up
STOPPED_SECONDS = 0.5  # of being stopped (SIGSTOP) before it is replaced
LOOK_SECONDS = 0.25
GRAVE_SECONDS = 5.0  # a death that a coordinator has read is repeated to its successor for this long
GRAVES = 256  # kept at most, of those that were read

_CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)  # it is stopped by messages only


class Grave(msgspec.Struct, eq=False):
    """A dead worker whose death may have to be told again. `read_at`: the coordinator has read of it."""

    life: Life
    message: Message
    out: bool = False
    read_at: float | None = None


Started = tuple[str, int, int]  # run, index, token of a task that a dead predecessor's worker had begun


class Keeper:
    def __init__(self, node: Node, predecessor: list[Started], lives: Callable[[], Iterable[Life]]) -> None:
        self.pid: int | None = None
        self.ready = False
        self.published = True  # the workflows of the last check are in the store
        self.finished = False  # it was told to finish, and has
        self.failure: tuple[int, str] | None = None  # exit code and reason: the daemon cannot go on
        self.restarts = 0
        self._node = node
        self._predecessor = predecessor
        self._lives = lives
        self._link: Link | None = None
        self._graves: deque[Grave] = deque()
        self._wishes: dict[str, Message] = {}  # what every new coordinator is told as well
        self._ever_ready = False
        self._born = 0.0
        self._not_before = 0.0
        self._deaths = 0  # in a row, young
        self._next_look = 0.0
        self._stopped_since: float | None = None
        self._silence = Silence(node.board.pulse)

    # --- for the loop -------------------------------------------------------------------------------------------------

    def fileno(self) -> int | None:
        return None if self._link is None or self._link.broken else self._link.fileno()

    @property
    def wants_to_write(self) -> bool:
        return self._link is not None and self._link.waiting

    @property
    def deaths_kept(self) -> int:
        return len(self._graves)

    def next_due(self, now: float) -> float:
        if self.pid is None:
            return float("inf") if self.finished else max(0.0, self._not_before - now)
        return max(0.0, self._next_look - now)

    def maintain(self, now: float) -> None:
        """Start it when it is due; see that it is neither stopped nor hung; forget old deaths."""
        if self.pid is None:
            if not self.finished and self.failure is None and now >= self._not_before:
                self._start(now)
            return
        if self._link is not None:
            self._link.flush()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self._look_after(now)
            self._forget_deaths(now)

    def receive(self) -> list[Message]:
        """What it says; `ready` and `published` are noted here."""
        messages = self._link.receive() if self._link is not None else []
        for message in messages:
            if message.get("type") == "ready":
                self.ready = self._ever_ready = True
                self._predecessor = []
            elif message.get("type") == "published":
                self.published = True
        return [message for message in messages if message.get("type") not in ("ready", "published")]

    def reap(self, pid: int, status: int, now: float) -> bool:
        if pid != self.pid:
            return False
        self.receive()  # it may have become ready and died since
        self._close()
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        self.restarts += code not in (EXIT_SWITCH, EXIT_NO_ROOM)
        if code == 0 and "finish" in self._wishes:
            self.finished = True
        elif code == EXIT_SWITCH:
            self._not_before = now
        elif code == EXIT_NO_ROOM:
            self._not_before = now + jittered(ROOM_PAUSE)
            self.finished = "finish" in self._wishes and not self._ever_ready  # nobody has anything to commit
        elif code == EXIT_STORE_UNUSABLE and not self._ever_ready:
            self.failure = EXIT_STORE_UNUSABLE, "the coordinator cannot use the store; the log says why"
        else:
            self._plan_restart(status, code, now)
        return True

    # --- what it is told ----------------------------------------------------------------------------------------------

    def worker_forked(self, life: Life) -> None:
        self._send(_birth(life), life.channel.of_coordinator)

    def worker_died(self, life: Life, status: int, reason: str | None, record: SlotRecord | None) -> None:
        self._node.forker.disown((life.channel.reports_theirs,))
        grave = Grave(life, _death(life, status, reason, record))
        self._graves.append(grave)
        if self._link is not None and not self._link.broken:
            self._tell_death(grave)

    def reload(self) -> None:
        """There are checked settings and workflows: `published` says when they are in force."""
        self.published = False
        self._send({"type": "reload"})

    def drain(self, on: bool) -> None:
        self._wish({"type": "drain", "on": on})

    def stop(self) -> None:
        self._wish({"type": "stop"})

    def finish(self) -> None:
        """All workers are gone and their deaths told: commit and exit."""
        self._wish({"type": "finish"})

    def kill(self) -> None:
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)  # our own child, not reaped

    def _wish(self, message: Message) -> None:
        self._wishes[message["type"]] = message
        self._send(message)

    def _send(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        if self._link is not None:
            self._link.send(message, fds)

    def _tell_death(self, grave: Grave) -> None:
        def out() -> None:
            grave.out = True

        assert self._link is not None
        self._link.send(grave.message, (), out)

    def _tell_everything(self) -> None:
        for life in (*(grave.life for grave in self._graves), *self._lives()):
            self._send(_birth(life), life.channel.of_coordinator)
        self._send({"type": "attached"})
        for grave in self._graves:
            grave.out, grave.read_at = False, None
            self._tell_death(grave)
        if not self.published:
            self._send({"type": "reload"})
        for message in self._wishes.values():
            self._send(message)

    # --- its life -----------------------------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        node = self._node
        try:
            ours, theirs = packet_pair()
        except OSError as exc:
            self._could_not_fork(exc, now)
            return
        node.forker.own([ours.fileno()])

        def child() -> int:
            set_title("kubemin: coordinator")
            for number in _CAUGHT:
                signal.signal(number, signals.ignore)
            return node.entries.coordinator(
                instance=node.instance,
                settings=node.settings,
                board=node.board,
                control=theirs,
                supervisor_pid=node.pid,
                predecessor=self._predecessor,
            )

        self._link = Link(ours)
        self._silence.begin()
        try:
            self.pid = node.forker.fork(Child(child, role="coordinator"))
        except OSError as exc:
            self._close()
            self._could_not_fork(exc, now)
            return
        finally:
            theirs.close()
        self._born, self._stopped_since = now, None
        log.debug("coordinator started", pid=self.pid)
        self._tell_everything()

    def _could_not_fork(self, exc: OSError, now: float) -> None:
        self._not_before = now + 1.0
        log.error("cannot fork the coordinator", reason=exc.strerror, retry_in=1.0)

    def _close(self) -> None:
        self.pid, self.ready = None, False
        if self._link is not None:
            self._node.forker.private.discard(self._link.fileno())
            self._link.close()
            self._link = None

    def _plan_restart(self, status: int, code: int | None, now: float) -> None:
        self._deaths = self._deaths + 1 if now < self._born + YOUNG else 1
        if not self._ever_ready and self._deaths >= CANNOT_START:
            reason = f"the coordinator cannot start: it {ending(status)}, {self._deaths} times; the log says why"
            self.failure = 1, reason
            return
        pause = FATAL_PAUSE if code == EXIT_STORE_UNUSABLE else PAUSES[min(self._deaths, len(PAUSES)) - 1]
        self._not_before = now + jittered(pause)
        log.error("coordinator died; it is restarted", ending=ending(status), seconds=pause)

    def _look_after(self, now: float) -> None:
        assert self.pid is not None
        if not processes.is_stopped(self.pid):
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now
        elif now > self._stopped_since + STOPPED_SECONDS:
            log.error("the coordinator was stopped by a signal; it is replaced", pid=self.pid)
            self.kill()
        if self._silence.is_hang(self.pid, now):
            log.error("the coordinator gives no sign of life; it is replaced", pid=self.pid)
            self.kill()

    # --- the dead -----------------------------------------------------------------------------------------------------

    def _forget_deaths(self, now: float) -> None:
        """Let go of the channels of workers whose death a coordinator has read, some time ago."""
        if self._link is None or not self.ready or not self._graves:
            return
        if not self._link.unread():
            for grave in self._graves:
                grave.read_at = grave.read_at or now
        while self._graves and (read_at := self._graves[0].read_at) is not None:
            if now < read_at + GRAVE_SECONDS and len(self._graves) <= GRAVES:
                break
            self._node.forker.disown(self._graves.popleft().life.channel.of_coordinator)


def _birth(life: Life) -> Message:
    return {
        "type": "worker",
        "slot": life.slot,
        "incarnation": life.incarnation,
        "pid": life.pid,
        "generation": life.generation,
    }


def _death(life: Life, status: int, reason: str | None, record: SlotRecord | None) -> Message:
    told: dict[str, Any] | None = None
    if record is not None:
        told = {"run": record.run, "idx": record.idx, "token": record.token, "state": record.state}
    return {
        "type": "died",
        "slot": life.slot,
        "incarnation": life.incarnation,
        "pid": life.pid,
        "status": status,
        "reason": reason,
        "record": told,
    }
