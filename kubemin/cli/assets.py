"""Files that come with kubemin beside its code: units, the sample configuration, man pages.

In a checkout they stand where they are kept; an installation has them in `share/kubemin`, laid out in the same way.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from kubemin.errors import NotFound

_MARK = Path("systemd", "kubemin.service")


def folder() -> Path:
    """Where they are. Raises NotFound."""
    for place in _places():
        if (place / _MARK).is_file():
            return place
    raise NotFound("the files that come with kubemin (share/kubemin) are not there; install it again", code="no_files")


def _places() -> Iterator[Path]:
    yield Path(__file__).resolve().parents[2]  # a checkout
    for prefix in (sysconfig.get_path("data"), sys.prefix, Path(sys.argv[0]).resolve().parents[1]):
        yield Path(prefix, "share", "kubemin")


def text(*path: str) -> str:
    """One of them. Raises NotFound."""
    file = folder().joinpath(*path)
    try:
        return file.read_text(encoding="utf-8")
    except OSError as exc:
        raise NotFound(f"{file}: {exc.strerror}; install kubemin again", code="no_files") from exc


def names(*path: str) -> list[str]:
    """Of the files in one of their folders, in order."""
    place = folder().joinpath(*path)
    return sorted(name for name in os.listdir(place)) if place.is_dir() else []
