"""--neg-schedule: which prompts are drawn with a negative prompt in which iteration, rho(t, D_N).

A negative prompt replaces the empty one of classifier-free guidance, only while sampling.
"""

import math
from collections.abc import Sequence

from expo_cli.contracts.ids import digest, fraction


def negative_probability(schedule: str, iteration: int, iterations: int | None) -> float:
    """Probability that a prompt of iteration t = 1..T gets a negative prompt.

    linear: 1 - (t-1)/(T-1); cosine: (1 + cos(pi (t-1)/(T-1))) / 2; constant: 1; none: 0. The
    first two go from 1 at t = 1 to 0 at t = T, and are 1 when there is only one iteration.
    """
    if schedule in ("none", "constant"):
        return float(schedule == "constant")
    progress = (iteration - 1) / (iterations - 1) if iterations > 1 else 0.0
    return 1 - progress if schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2


def draw_negative_prompt(
    negative_prompts: Sequence[str], probability: float, seed: int, prompt_id: str, iteration: int
) -> str | None:
    """The negative prompt of a prompt in an iteration, the same for both agents, or None."""
    if fraction("negative", seed, prompt_id, iteration) >= probability:
        return None
    choice = digest("negative-choice", seed, prompt_id, iteration) % len(negative_prompts)
    return negative_prompts[choice]
