"""Names for what one call may leave unfinished, kept in the table `ripples` as (kind, run, idx, pos).

TELL       the dependents of node `idx`, from the `pos`-th, hear that it ended (settle.py)
FAN        the fan-out `idx` goes on making children (fanout.py)
BUILD      rows of the run's nodes, from node `pos`; REBUILD: their reset for `retry` (building.py)
RELEASE    roots are decided, from the `pos`-th; RERELEASE: of a retried run, rows from idx `pos`
STOP       queued tasks of a stopped run end, from idx `pos`
TRASH      rows of a run that was pruned, deleted piece by piece
"""

TELL, FAN, BUILD, REBUILD, RELEASE, RERELEASE, STOP, TRASH = range(8)

# Stages of a run's rows: being made; all there; released, or on the way.
BUILDING, BUILT, RELEASED = range(3)
