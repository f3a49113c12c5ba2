"""The supervisor: one event loop that forks, reaps, and enforces deadlines; no database, no network, no user code, no
threads.

`loop.py` is the list of its steps and the entry point `run_supervisor`; `start.py` what happens before it. `pool.py`
and `slots.py` are the workers, `coordinator.py` and `link.py` the coordinator, `reload.py` a reload, `stopping.py`
the way out; `forking.py` is the one place that forks. `pidfile.py` and `wanted.py` are also used by `kubeminctl`, and
import nothing heavy. It imports errors, clock, config, scoreboard, channel, telemetry, and the entry points of worker
and coordinator.
"""
