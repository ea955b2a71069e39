"""The work of each command: read contracts, call core with models and rewards, write contracts.

One package per command. Where the work needs slow imports, `plan.py` is what the command calls: it
refuses what cannot be done and finds what is left to do without them, and `run.py` does it. Elsewhere
`run.py` is all.
"""
