"""The worker process: takes one task at a time, runs it, reports how it ended, and looks after itself.

`process.py` is the entry point after the fork, `loop.py` the loop, `execute.py` the way from a claim to its outcome;
`fleet/` is the same where tasks come from Redis. May touch: its channels, its slot of the scoreboard, its scratch
folders, users' code and the processes that it starts; outside `fleet/` no store and no network.
"""
