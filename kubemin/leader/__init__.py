"""The leader's duties, one a file, as functions over the store interface: they never see an engine.

A machine alone is always its own leader. Each duty is idempotent and bounded a call, so that it can be run by two
leaders at once, or be cut off anywhere, and be run again.
"""
