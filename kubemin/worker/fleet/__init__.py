"""The worker of a fleet: takes its tasks from Redis itself. The one part of a worker that knows a store."""
