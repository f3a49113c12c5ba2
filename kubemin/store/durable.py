"""Small files that have to be there after a power cut: written beside, fsynced, renamed into place."""

from __future__ import annotations

import os


def write_durably(path: str, body: bytes) -> None:
    """Whole or not at all. Raises OSError."""
    temporary = f"{path}.new"
    with open(temporary, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)
    _sync(os.path.dirname(path) or ".")


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
