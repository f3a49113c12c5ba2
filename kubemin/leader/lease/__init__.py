"""Where the leader's lease is kept: a Kubernetes Lease or a Redis lock, behind one small interface (`base`).

A backend only carries out: read, acquire, renew, release, each one bounded request, each failure as one of `base`'s
classes. What follows from an answer is the elector's, the same for both. `kubernetes` is imported by `kubernetes.py`
alone, when it first connects; `redis.py` is given something that runs scripts, and imports no driver.
"""
