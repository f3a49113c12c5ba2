"""A connection of this node to its fleet's Redis, from its settings. Nothing is sent before the first call."""

from __future__ import annotations

import os

import msgspec

from kubemin import signing
from kubemin.config import Settings
from kubemin.errors import Invalid
from kubemin.store.redis import address as addresses
from kubemin.store.redis.client import Client
from kubemin.store.redis.node import NodeStore

CREDENTIAL = "redis-password"  # among systemd's credentials
DAY = 86_400.0


def redis_address(settings: Settings) -> addresses.Address:
    """Raises Invalid: an address or a password file that cannot be used."""
    address = addresses.parse(settings.redis_addr, password=_password(settings))
    return msgspec.structs.replace(address, state_dir=str(settings.state_dir))


def open_store(settings: Settings, *, instance: str = "", name: str = "kubemin", reads: bool = False) -> NodeStore:
    """`name` is the connection's in CLIENT LIST. `reads`: a signing key that cannot be read is an obstacle only to
    what has to be signed. Raises Invalid."""
    store = NodeStore(
        settings.redis_addr,
        instance=instance,
        node=settings.node_id,
        task_timeout=settings.task_timeout,
        ttl=settings.lock.ttl,
        renew=settings.lock.renew,
        client=Client(redis_address(settings), name=name),
    )
    store.output_bytes = settings.retention.output_bytes
    store.on_failure = settings.on_failure
    try:
        trust(store, settings)
    except Invalid as exc:
        if not reads:
            raise
        store.trust(None, 0.0, exc)
    return store


def trust(store: NodeStore, settings: Settings) -> bool:
    """Take the keys of the settings; True: they are others than before. Raises Invalid."""
    path, kept = settings.signing_key_file, settings.retention
    signer = None if path is None else signing.load(path)
    if signer == store.signer:
        return False
    store.trust(signer, max(kept.days * DAY, kept.min))
    return True


def _password(settings: Settings) -> str | None:
    path = settings.redis_password_file or _credential()
    if path is None:
        return None
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip("\r\n") or None
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise Invalid(f"redisPasswordFile: cannot read {path}: {reason}") from exc


def _credential() -> str | None:
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    path = os.path.join(folder, CREDENTIAL) if folder else ""
    return path if path and os.path.exists(path) else None
