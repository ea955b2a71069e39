"""`expo rollout`: draws the samples of each part."""
