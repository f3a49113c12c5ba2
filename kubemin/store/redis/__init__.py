"""The fleet's engine: Redis or Valkey. The only place that may import `redis`; nothing outside sees a key or a script.

`redis` costs 150 ms and 19 MB to import: it is imported when the first connection is made, or by `preload()` in a
process that will fork.
"""

from __future__ import annotations


def preload() -> None:
    """Import what a connection needs. Modules are safe to share over a fork, connections are not."""
    import hiredis  # noqa: F401
    import redis.connection  # noqa: F401

    import kubemin.store.redis.store  # noqa: F401
    from kubemin.store.redis.scripts import script

    script("finish_and_claim")  # the one that workers live by
    "localhost".encode("idna")  # imports its codec, which every look-up of a host name needs
