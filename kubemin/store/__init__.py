"""Where runs and tasks are kept: `base.py` is the interface, one package an engine, one conformance suite for all."""
