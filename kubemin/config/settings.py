"""The values, typed, with their defaults: what every process of the daemon is given. Data only.

Durations are seconds, sizes bytes, lists tuples. `table.py` gives each its range, its names and its help.
"""

from __future__ import annotations

import msgspec


class Lock(msgspec.Struct, frozen=True):
    ttl: float = 15.0
    renew: float = 5.0


class LeaderElection(msgspec.Struct, frozen=True):
    backend: str = "auto"
    namespace: str = "min-cli-system"
    name: str = "apiserver-lock"
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    exit_on_lost_leader: bool = False


class Python(msgspec.Struct, frozen=True):
    path: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


class Recycle(msgspec.Struct, frozen=True):
    max_tasks: int | None = None
    max_memory: int | None = None


class Retention(msgspec.Struct, frozen=True):
    days: float = 7.0
    runs: int = 10_000
    min: float = 3600.0
    output_bytes: int = 256 * 1024 * 1024


class Output(msgspec.Struct, frozen=True):
    lines_per_second: int = 1000


class Log(msgspec.Struct, frozen=True):
    level: str = "info"
    format: str = "auto"


class Settings(msgspec.Struct, frozen=True):
    """Everything that can be set. The directories and `node_id` have defaults of the machine: see `defaults.py`."""

    redis_addr: str = ""
    enable_distributed: bool | None = None  # None: when redis_addr is set
    redis_required: bool = False
    max_workers: int = 10
    node_id: str = ""
    queues: tuple[str, ...] = ("default",)
    state_dir: str = ""
    runtime_dir: str = ""
    workflows_dir: str = ""
    graceful_timeout: float = 30.0
    task_timeout: float = 1200.0
    lock: Lock = Lock()
    leader_election: LeaderElection = LeaderElection()
    kubeconfig: str | None = None
    user: str | None = None
    python: Python = Python()
    recycle: Recycle = Recycle()
    retention: Retention = Retention()
    durability: str = "none"
    redis_password_file: str | None = None
    secrets_dir: str | None = None
    output: Output = Output()
    on_failure: tuple[str, ...] = ()
    signing_key_file: str | None = None
    http_addr: str = ""
    log: Log = Log()
