"""kubemin: durable workflows on plain Linux machines, run by a supervised pool of OS processes."""

__version__ = "0.1.0"
