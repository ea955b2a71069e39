"""The work of each command: read contracts, call core with models and rewards, write contracts."""
