"""The table of settings: what each key is, may be, is called elsewhere, and does when it changes.

`--help`, the guide, validation, `reload --dry-run` and `diff` all come from it. The default of a key is the default of
its attribute in `settings.py`, unless `default` says that it depends on the machine.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

import msgspec

from kubemin.config.settings import Settings
from kubemin.model.names import QUEUE


class Kind(StrEnum):
    TEXT = "text"
    PATH = "path"  # relative: to the configuration file's folder; in flags and environment to the working directory
    BOOL = "true or false"
    INT = "whole number"
    NUMBER = "number"
    DURATION = "duration"
    SIZE = "size"
    CHOICE = "word"
    LIST = "list"
    PATHS = "list of paths"
    ARGV = "list of arguments"


class Applies(StrEnum):
    """When a changed value is in force after a reload."""

    LIVE = "live"  # at once
    ROLLING = "rolling"  # as the workers are replaced, one by one
    RESTART = "restart"  # when the daemon is restarted


class Key(NamedTuple):
    name: str  # as in the file, nested with dots: `lock.ttl`
    kind: Kind
    applies: Applies
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""  # the whole value, or each item of a list, must match
    shape: str = ""  # the pattern in words, for the message
    default: str = ""  # in words, where the machine decides
    aliases: tuple[str, ...] = ()  # environment names besides KUBEMIN_…
    optional: bool = False  # may be none

    @property
    def attributes(self) -> list[str]:
        """`leaderElection.leaseDuration` -> ["leader_election", "lease_duration"]"""
        return [snake(part) for part in self.name.split(".")]

    @property
    def variable(self) -> str:
        return "KUBEMIN_" + "_".join(self.attributes).upper()

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment names, the strongest first."""
        return (self.variable, *self.aliases)

    @property
    def flag(self) -> str:
        return "--" + "_".join(self.attributes).replace("_", "-")

    def of(self, settings: Settings) -> Any:
        """The key's value in `settings`."""
        value: Any = settings
        for attribute in self.attributes:
            value = getattr(value, attribute)
        return value


@cache
def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


_LIVE, _ROLLING, _RESTART = Applies
_DAY = 86_400.0
_MI = 1024 * 1024
_DNS = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DNS_SHAPE = "lower-case letters, digits and hyphens, at most 63"
_HOST = r"(\[[0-9A-Fa-f:.%a-z]+\]|[A-Za-z0-9._-]*)"
_HTTP = rf"({_HOST}:[0-9]{{1,5}})?"
_REDIS = (
    r"((rediss?|redis\+sentinel|redis\+cluster)://[^\s/]+(/\S*)?|unix://(\S+@)?/\S+|"
    r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})?"
)

TABLE: tuple[Key, ...] = (
    Key(
        "redisAddr",
        Kind.TEXT,
        _RESTART,
        "Redis that joins this node to a fleet; empty: this machine works alone",
        pattern=_REDIS,
        shape="host:port, redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://",
        aliases=("REDIS_ADDR",),
    ),
    Key(
        "enableDistributed",
        Kind.BOOL,
        _RESTART,
        "false forces local mode although redisAddr is set",
        default="true when redisAddr is set",
        optional=True,
    ),
    Key("redisRequired", Kind.BOOL, _RESTART, "refuse to start while Redis does not answer"),
    Key("maxWorkers", Kind.INT, _LIVE, "worker processes in the pool", 1, 1024, aliases=("MAX_WORKERS",)),
    Key(
        "nodeId",
        Kind.TEXT,
        _RESTART,
        "this node's name",
        pattern=r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?",
        shape="letters, digits, dots, hyphens and underscores",
        default="the host name",
        aliases=("NODE_ID",),
    ),
    Key(
        "queues",
        Kind.LIST,
        _LIVE,
        "named queues that this node serves, in priority order",
        pattern=QUEUE,
        shape="lower-case letters, digits, dots, hyphens and underscores, at most 63",
    ),
    Key(
        "stateDir",
        Kind.PATH,
        _RESTART,
        "what has to survive a reboot",
        default="/var/lib/kubemin as root, else $XDG_STATE_HOME/kubemin",
    ),
    Key(
        "runtimeDir",
        Kind.PATH,
        _RESTART,
        "pid file, socket and scoreboard; best on a tmpfs",
        default="/run/kubemin as root, else $XDG_RUNTIME_DIR/kubemin",
    ),
    Key(
        "workflowsDir",
        Kind.PATH,
        _LIVE,
        "folder of the node's workflow files",
        default="workflows.d beside the configuration file",
    ),
    Key(
        "gracefulTimeout",
        Kind.DURATION,
        _LIVE,
        "how long running tasks may go on after a stop was asked for",
        0,
        7 * _DAY,
    ),
    Key("taskTimeout", Kind.DURATION, _LIVE, "time-out of a step that sets none", 0.1, 365 * _DAY),
    Key("lock.ttl", Kind.DURATION, _RESTART, "life of a task's lock: how late a lost node is noticed", 1, 3600),
    Key("lock.renew", Kind.DURATION, _RESTART, "how often a lock is renewed; less than half of lock.ttl", 0.1, 1800),
    Key(
        "leaderElection.backend",
        Kind.CHOICE,
        _RESTART,
        "where the leader's lease is kept",
        choices=("auto", "kubernetes", "redis"),
    ),
    Key("leaderElection.namespace", Kind.TEXT, _RESTART, "namespace of the Lease", pattern=_DNS, shape=_DNS_SHAPE),
    Key(
        "leaderElection.name", Kind.TEXT, _RESTART, "name of the Lease", pattern=rf"{_DNS}(\.{_DNS})*", shape=_DNS_SHAPE
    ),
    Key("leaderElection.leaseDuration", Kind.DURATION, _RESTART, "life of a lease that is not renewed", 1, 3600),
    Key(
        "leaderElection.renewDeadline",
        Kind.DURATION,
        _RESTART,
        "a leader that cannot renew for this long gives up",
        0.5,
        3600,
    ),
    Key(
        "leaderElection.retryPeriod", Kind.DURATION, _RESTART, "between two tries to get or renew the lease", 0.1, 3600
    ),
    Key("leaderElection.exitOnLostLeader", Kind.BOOL, _RESTART, "restart the coordinator when its term is lost"),
    Key(
        "kubeconfig",
        Kind.PATH,
        _RESTART,
        "how to reach the Kubernetes API server",
        default="in-cluster, then $KUBECONFIG, then ~/.kube/config",
        optional=True,
    ),
    Key(
        "user",
        Kind.TEXT,
        _ROLLING,
        "user that steps run as; only where the daemon is root",
        pattern=r"[A-Za-z_][A-Za-z0-9_.-]{0,31}|[0-9]{1,10}",
        shape="a user name or number",
        optional=True,
    ),
    Key("python.path", Kind.PATHS, _ROLLING, "directories added to the import path of workers"),
    Key(
        "python.allow",
        Kind.LIST,
        _ROLLING,
        "functions that steps may call, as patterns: reports.*:run",
        pattern=r"[\w.*?!\[\]-]+(:[\w.*?!\[\]-]+)?",
        shape="package.module:function, with * and ?",
    ),
    Key("recycle.maxTasks", Kind.INT, _ROLLING, "replace a worker after so many tasks", 1, 10**12, optional=True),
    Key(
        "recycle.maxMemory",
        Kind.SIZE,
        _ROLLING,
        "replace a worker that holds more memory than this after a task",
        16 * _MI,
        2**60,
        optional=True,
    ),
    Key("retention.days", Kind.NUMBER, _LIVE, "days that a finished run is kept", 0, 36_500),
    Key("retention.runs", Kind.INT, _LIVE, "finished runs that are kept at most", 0, 10**9),
    Key("retention.min", Kind.DURATION, _LIVE, "no finished run is dropped before this age", 0, 36_500 * _DAY),
    Key("retention.outputBytes", Kind.SIZE, _LIVE, "kept output of all runs together", 0, 2**60),
    Key(
        "durability",
        Kind.CHOICE,
        _LIVE,
        "what a submission waits for in Redis",
        choices=("none", "fsync", "replica"),
    ),
    Key(
        "redisPasswordFile",
        Kind.PATH,
        _RESTART,
        "file that holds the password of Redis",
        default="redis-password among systemd's credentials",
        optional=True,
    ),
    Key(
        "secretsDir",
        Kind.PATH,
        _ROLLING,
        "folder of the secrets that steps name, one file each",
        default="systemd's credentials",
        optional=True,
    ),
    Key(
        "output.linesPerSecond",
        Kind.INT,
        _ROLLING,
        "lines of a step that go into the log each second; others are counted",
        1,
        10**9,
    ),
    Key("onFailure", Kind.ARGV, _LIVE, "command that gets the run as JSON on standard input when a run fails"),
    Key(
        "signingKeyFile",
        Kind.PATH,
        _ROLLING,
        "file of the keys that sign runs in a fleet: workers refuse what is not signed with one of them",
        default="signing-key among systemd's credentials",
        optional=True,
    ),
    Key(
        "httpAddr",
        Kind.TEXT,
        _RESTART,
        "address of metrics and health; empty: off",
        pattern=_HTTP,
        shape="host:port",
    ),
    Key(
        "log.level",
        Kind.CHOICE,
        _LIVE,
        "the least important records that are written",
        choices=("debug", "info", "warning", "error"),
    ),
    Key(
        "log.format",
        Kind.CHOICE,
        _RESTART,
        "auto: journald when started by systemd, else text",
        choices=("auto", "journald", "text", "json"),
    ),
)
KEYS: dict[str, Key] = {key.name: key for key in TABLE}
DEFAULTS = Settings()


class Change(NamedTuple):
    """One key that differs. `applies` says when the new value is in force: live, rolling or restart."""

    key: str
    old: Any
    new: Any
    applies: str


def diff(old: Settings, new: Settings) -> list[Change]:
    """The keys that differ, in the table's order."""
    pairs = ((key, key.of(old), key.of(new)) for key in TABLE)
    return [Change(key.name, before, after, key.applies.value) for key, before, after in pairs if before != after]


def until_restart(old: Settings, new: Settings) -> Settings:
    """`new`, with the old values of what only a restart changes: what is in force after a reload."""
    changed: dict[str, Any] = {}
    for key in TABLE:
        if key.applies is Applies.RESTART and key.of(old) != key.of(new):
            first, *rest = key.attributes
            value = key.of(old)
            if rest:
                value = msgspec.structs.replace(changed.get(first, getattr(new, first)), **{rest[0]: value})
            changed[first] = value
    return msgspec.structs.replace(new, **changed)
