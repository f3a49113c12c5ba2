"""Who leads, and what the leader does.

**Leading.** `campaign` is the door: it runs the `elector` over a `lease` (Kubernetes or Redis) and gives the
coordinator a `term`, which ends by the clock. State diagram, trust window and failures are in `elector`; the argument
in `docs/leadership.md`.

**The duties**, one a file, are functions over the store interface: they never see an engine. A machine alone is
always its own leader. Each duty is idempotent and bounded a call, so that it can be run by two leaders at once, or be
cut off anywhere, and be run again.
"""
