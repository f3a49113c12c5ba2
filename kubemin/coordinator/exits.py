"""The coordinator's exit codes, as its keeper in the supervisor reads them."""

from __future__ import annotations

EXIT_STORE_UNUSABLE = 3  # the store cannot be used; why is in the log
EXIT_NO_ROOM = 5  # the disk is full, which may pass: it is tried again, also by a daemon that only starts
EXIT_SWITCH = 4  # Redis answers now: the next coordinator is a fleet's. Nothing is wrong.
