"""The fleet's engine: Redis or Valkey. Only here is `hiredis` imported; nothing outside sees a key or a script."""

from __future__ import annotations

OF_WORKERS = ("finish_and_claim", "lose", "advance", "fan")  # scripts, each put together once for all of them


def preload() -> None:
    """Import what a connection needs, in a process that will fork. Modules are safe to share over a fork, connections
    are not."""
    import kubemin.store.redis.store  # noqa: F401
    from kubemin.store.redis.scripts import script

    for name in OF_WORKERS:
        script(name)
