"""What queues and secrets are called: one pattern each for workflow files, settings, commands and code. Pure."""

from __future__ import annotations

QUEUE = r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?"
QUEUE_SHAPE = "lower-case letters, digits, dots, hyphens, 63 at most"
SECRET = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}"  # a file name, not a path
