"""The work of each command: read contracts, call core with models and rewards, write contracts.

A module per command says what there is to do and refuses what cannot be done, without the slow
imports; the packages do it.
"""
