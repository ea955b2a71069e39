"""The learning rate as a function of the step."""

import math


def learning_rate_factor(schedule: str, step: int, steps: int, warmup_ratio: float) -> float:
    """The factor of the learning rate at `step` (from 0) out of `steps`.

    It rises linearly to 1 over the first `warmup_ratio` of the steps; then it is constant, or
    falls to 0 at the end, linearly or as a half cosine.
    """
    warmup = round(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(steps - warmup, 1)
    return {
        "constant": 1.0,
        "linear": 1 - progress,
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
    }[schedule]
