"""Where runs and tasks are kept. `base.py` is the interface; one package an engine, each passing the same conformance suite."""
