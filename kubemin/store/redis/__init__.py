"""The fleet's engine: Redis or Valkey. Only here is `hiredis` imported; nothing outside sees a key or a script."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubemin.config import Settings

OF_WORKERS = ("finish_and_claim", "lose", "advance", "fan")  # scripts, each put together once for all of them


def preload(settings: Settings) -> None:
    """Import what a connection needs, in a process that will fork. Modules are safe to share over a fork, connections
    are not. OpenSSL comes where all workers need it: shared, it costs its 2 MB once."""
    import kubemin.store.redis.store  # noqa: F401
    from kubemin.store.redis.scripts import script

    for name in OF_WORKERS:
        script(name)
    if settings.redis_addr.startswith("rediss"):
        import ssl  # noqa: F401
    if settings.signing_key_file is not None:
        import hmac  # noqa: F401
