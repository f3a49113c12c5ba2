"""The coordinator process: the one writer of the local store, the broker of the node's workers, the leader's duties.

It never forks. Its loop is `process.py`; `link.py` knows workers, `server.py` clients, `control.py` the supervisor;
duties are in `kubemin/leader/`. **Commit, then send**: what came in is applied in one transaction, and tasks, replies
and acknowledgements leave only after its commit. May touch: the store, the clients' socket, its channels, its record in
the scoreboard; users' files and code never.
"""
