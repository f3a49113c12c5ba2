"""The coordinator of a node in a fleet: the ledger is Redis, workers are its clients themselves.

`entry.py` chooses the mode at the start; `process.py` is the loop, a list of steps; each step is a file of its own:
`membership.py` (heartbeat, adoption), `locks.py` (renewals, stops), `rescues.py` (entries that were popped and lost),
`office.py` (the election and the leader's duties), `carrying.py` (what is unfinished in this node's SQLite).
"""
