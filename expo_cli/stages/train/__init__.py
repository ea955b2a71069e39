"""`expo train`: records become evidence, an objective turns it into a loss, the trainer takes steps.

Follow a pair: `records` (its line) -> `pair_evidence` (latents, noise, errors) -> an objective of
`core.objectives` -> `trainer` (gradients, optimiser) -> `weights` -> `state` and `checkpoint`.
"""
