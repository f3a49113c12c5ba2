"""What tests of the whole system share: a real daemon in its own directories, and waiting with a deadline.

`from support import Daemon, wait_until` in tests; the fixtures are in `tests/conftest.py`.
"""

from support.daemon import Completed, Daemon
from support.processes import descendants, processes_naming
from support.programs import PROJECT, program, run_program
from support.waiting import wait_until

__all__ = [
    "PROJECT",
    "Completed",
    "Daemon",
    "descendants",
    "processes_naming",
    "program",
    "run_program",
    "wait_until",
]
