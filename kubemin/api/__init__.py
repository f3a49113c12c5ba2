"""The parts behind `kubemin.client`: arguments as JSON, submissions as bytes, the way to the store, runs, waiting.

May touch: the daemon's socket, the store (writing it only where no daemon holds its lock), the workflow files it is
given. Imports what a call needs when it is first made: `import kubemin` in a program costs nothing.
"""
