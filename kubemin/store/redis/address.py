"""`redisAddr`: where Redis is, in all its spellings. Passwords stay inside: `shown` is what messages may hold."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from kubemin.errors import Invalid

PORT = 6379
SENTINEL_PORT = 26379
USAGE = "use host:port, redis://, rediss://, unix:///path, redis+sentinel://h1:p,h2:p/SERVICE/DB or redis+cluster://h1:p,h2:p"


class Address(msgspec.Struct, frozen=True):
    """`kind`: single, unix, sentinel or cluster."""

    kind: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    user: str | None = None
    password: str | None = None
    tls: bool = False
    ca: str | None = None  # file of certificates to trust, else the system's
    state_dir: str = ""  # whose fleet the server has to be (identity.py); empty: any

    @property
    def shown(self) -> str:
        if self.kind == "unix":
            return self.path
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{hosts}/{self.service}" if self.service else hosts


def parse(text: str, *, password: str | None = None) -> Address:
    """`password` (from redisPasswordFile) beats the one in the address. Raises Invalid."""
    if "://" not in text:
        return Address("single", (_host(text, PORT),), password=password)
    parts = urlsplit(text)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, secret = credentials.partition(":")
    common = {"user": unquote(user) or None, "password": password or unquote(secret) or None, "ca": query.get("ca")}
    if parts.scheme == "unix":
        return Address("unix", path=parts.path, db=_db(query.get("db", "0")), **common)  # type: ignore[arg-type]
    scheme, _, kind = parts.scheme.partition("+")
    if scheme not in ("redis", "rediss") or kind not in ("", "sentinel", "cluster"):
        raise Invalid(f'redisAddr: "{parts.scheme}://" is not known; {USAGE}')
    path = [piece for piece in parts.path.split("/") if piece]
    port = SENTINEL_PORT if kind == "sentinel" else PORT
    found = tuple(_host(each, port) for each in hosts.split(",") if each)
    if not found:
        raise Invalid(f"redisAddr: a host is missing; {USAGE}")
    service = path.pop(0) if kind == "sentinel" and path else ""
    if kind == "sentinel" and not service:
        raise Invalid("redisAddr: the Sentinel's service name is missing: redis+sentinel://h1:p,h2:p/SERVICE/DB")
    db = _db(path[0] if path else query.get("db", "0"))
    return Address(kind or "single", found, service=service, db=db, tls=scheme == "rediss", **common)  # type: ignore[arg-type]


def _host(text: str, port: int) -> tuple[str, int]:
    host, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, number = text, str(port)
    if not host or not number.isdigit():
        raise Invalid(f"redisAddr: host or port is not right; {USAGE}")
    return _ascii(host.strip("[]")), int(number)


def _ascii(host: str) -> str:
    """As name servers know it."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError as error:
        raise Invalid(f'redisAddr: "{host[:100]}" is no host name: {error}') from error


def _db(text: str) -> int:
    if not text.isdigit():
        raise Invalid(f'redisAddr: the database "{text[:20]}" is not a number')
    return int(text)
