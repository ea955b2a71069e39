"""The learning rate: its scale (--scale-lr) and its course over the steps."""

import math


def peak_learning_rate(learning_rate: float, global_batch_size: int, scale_lr: bool) -> float:
    """The rate after the warm-up: with `scale_lr`, per item of the global batch, as in the
    Diffusion-DPO authors' script."""
    return learning_rate * global_batch_size if scale_lr else learning_rate


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
