"""`expo rollout`: drawing the samples of a part."""
