"""One-line defects, each with the tests that must fail when it is planted.

They are the mistakes that a change to these places would most likely make, and what a reviewer of the promises would
try first. A test that lets one through proves nothing about its promise, however green it is.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """`before` stands exactly once in `file` and becomes `after`; then each of `tests` (node ids) has to fail."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


def plant(source: str, mutant: Mutant) -> str:
    """The file's text with the defect in it. Raises ValueError when its place is not there, or there twice."""
    if (count := source.count(mutant.before)) != 1:
        raise ValueError(
            f"{mutant.name}: {mutant.before!r} stands {count} times in {mutant.file}; bring the set up to date"
        )
    return source.replace(mutant.before, mutant.after)
