"""The form of a finding."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, and may not be what you want
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True):
    """One thing looked at: a stable word, how it stands, and one sentence that says what to do."""

    check: str
    status: Verdict
    message: str


def ok(check: str, message: str) -> Finding:
    return Finding(check, Verdict.OK, message)


def note(check: str, message: str) -> Finding:
    return Finding(check, Verdict.NOTE, message)


def wrong(check: str, message: str) -> Finding:
    return Finding(check, Verdict.WRONG, message)
