"""What imports leave free between objects, taken before the forks, so that a child puts its own objects on fresh pages.

CPython serves objects of up to 512 bytes from pools, one size a pool, and imports leave holes in most of them. A child
that puts a new object into a hole copies the whole page: without the filling a worker copies a hundred pages more.
"""

from __future__ import annotations

import sys

_STEP, _LARGEST, _POOL = 16, 512, 16 * 1024  # bytes; Objects/obmalloc.c
_LIMIT = 2 * 1024 * 1024  # for each size
_EMPTY = sys.getsizeof(b"")


def filling() -> list[bytes]:
    """Objects that take up every hole, to be kept for as long as children are forked. An empty list where another
    allocator (PYTHONMALLOC) is in use, which does not hand out neighbours one after the other."""
    filled: list[bytes] = []
    for size in range(_EMPTY // _STEP * _STEP + _STEP, _LARGEST + _STEP, _STEP):
        if not _fill(filled, size):
            return []
    return filled


def _fill(filled: list[bytes], size: int) -> bool:
    """Until a whole pool was handed out in one row: then no hole of this size is left. That pool is given back."""
    row, last, whole = 0, 0, _POOL // size - 2
    for _ in range(_LIMIT // size):
        filled.append(bytes(size - _EMPTY))
        here = id(filled[-1])
        row = row + 1 if here - last == size else 0
        last = here
        if row >= whole:
            del filled[-row:]
            return True
    return False
