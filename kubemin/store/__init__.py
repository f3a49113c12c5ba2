"""Where runs and tasks are kept: `base.py` is the interface, one package an engine, one conformance suite for all.

The modules beside the engines are what they do alike: `admission.py` checks submissions, `plans.py` knows graphs,
`inputs.py` what references read, `codec.py` how records are written, `views.py`, `obstacles.py` and `staged.py` what
readers see. They touch no file and no server; only an engine does.
"""
