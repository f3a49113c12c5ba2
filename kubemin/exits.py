"""Exit codes of the supervisor's children, as it reads them. Of what else they say it knows nothing."""

from __future__ import annotations

EXIT_STORE_UNUSABLE = 3  # of the coordinator: the store cannot be used; why is in the log
EXIT_SWITCH = 4  # of the coordinator: Redis answers now, the next one is a fleet's. Nothing is wrong.
EXIT_NO_ROOM = 5  # of the coordinator: the disk is full, which may pass: also a daemon that only starts tries again
EXIT_BUG = 70  # EX_SOFTWARE of sysexits(3): the child raised what it should not
EXIT_SOILED = 76  # of a worker that is replaced for what a Python step left in it
EXIT_CUT_OFF = 77  # of a worker whose step has closed the channel: its task stays in its record and cannot be reported
