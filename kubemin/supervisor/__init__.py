"""The supervisor: one event loop that forks, reaps, and enforces deadlines; no database, no network, no user code, no
threads.

`loop.py` is the list of its steps and the entry point `run_supervisor`; `start.py` is what happens before it.
`pool.py`, `slots.py`, `rolling.py` and `enforcing.py` are the workers, `coordinator.py` and `link.py` the coordinator;
`wishes.py` is what operators ask for, `reload.py` a reload, `stopping.py` the way out; `orphans.py` is processes that
nobody owns; `forking.py` is the one place that forks. `pidfile.py` and `wanted.py` are also used by `kubeminctl`, and
import nothing heavy. The package imports errors, clock, processes, config, scoreboard, channel, telemetry, the marker
and the control group of steps, and the entry points of worker and coordinator.
"""
