"""Random-weight checkpoints in the exact layout of the real ones.

Each family is there at a width that a CPU likes and, with `full=True`, at the real one: what the
real config.json files say, in bf16.
"""
