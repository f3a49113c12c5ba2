"""Executors of `run`, `shell` and `python` steps: a `Step` in, an `Ended` out. They never see a store or a channel."""
