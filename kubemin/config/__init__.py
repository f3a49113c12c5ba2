"""The settings of a node: one table, read from flags, environment, file and defaults, in that order of strength.

`table.py` says what each key is, `settings.py` holds the values and their defaults, `sources.py` reads where they come
from, `load.py` puts them together and checks them, `reload.py` is what a reload leaves for the other processes. Imports
model, errors, and files (only when a file is read).
"""

from kubemin.config.load import adopt, load_settings, settings_in_force
from kubemin.config.reload import ReloadResult, read_result
from kubemin.config.settings import (
    LeaderElection,
    Lock,
    Log,
    Output,
    Python,
    Recycle,
    Retention,
    Settings,
)
from kubemin.config.table import Change, diff

__all__ = [
    "Change",
    "LeaderElection",
    "Lock",
    "Log",
    "Output",
    "Python",
    "Recycle",
    "ReloadResult",
    "Retention",
    "Settings",
    "adopt",
    "diff",
    "load_settings",
    "read_result",
    "settings_in_force",
]
