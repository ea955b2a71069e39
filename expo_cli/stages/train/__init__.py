"""`expo train`: turns records into evidence, evidence into a loss, and takes optimiser steps.

Follow a pair: `records` (its line) -> `pair_evidence` (latents, noise, errors) -> an objective of
`core.objectives` -> `trainer` (gradients, optimiser) -> `weights` -> `state` and `checkpoint`.
"""
