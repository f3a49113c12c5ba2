"""The command line: `kubemind.py` is the daemon's entry, `kubeminctl.py` everything else, a file a command.

Commands go through the Python API and the scoreboard; `views.py` is the JSON contract, `render.py` alone prints. May
touch what its user may: configuration, signals to the daemon, and what `install-service` puts into a system.
"""
