"""Executors of `run`, `shell` and `python` steps: a `Step` in, an `Ended` out. They never see a store or a channel.

May touch: the processes that they start and all below those, the step's folders, secrets, control groups.
"""
