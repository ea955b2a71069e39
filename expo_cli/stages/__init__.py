"""The work of each command: read contracts, call core with models and rewards, write contracts.

One package per command. If the work needs slow imports, the command calls `plan.py`, which checks
the request and finds what is left to do without them; `run.py` then does it. Other commands have
only `run.py`.
"""
