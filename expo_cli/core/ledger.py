"""What a round of pairs consists of: whose images won, by how much, and how new the winners are."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

import torch
from torch import Tensor

Source = TypeVar("Source", bound=Hashable)


def shares(items: Sequence[Source]) -> dict[Source, float]:
    return {source: count / len(items) for source, count in Counter(items).items()}


def mean_spread(scores: Mapping[str, Sequence[float]]) -> float | None:
    """The mean over prompts of the best minus the worst of a prompt's scores; None if no prompt has two
    scores."""
    spreads = [max(each) - min(each) for each in scores.values() if len(each) > 1]
    return fmean(spreads) if spreads else None


def relative_distance(winner: Tensor, drawn: Sequence[Tensor]) -> float | None:
    """How far a winner lies from what a policy draws, in units of how far its draws lie apart.

    The root mean square distance to the nearest of the `drawn` latents, over the mean distance between
    two of them. None with fewer than two, or if all are equal.
    """
    between = [
        root_mean_square(one - other)
        for number, one in enumerate(drawn)
        for other in drawn[number + 1 :]
    ]
    if not between or not any(between):
        return None
    return min(root_mean_square(winner - each) for each in drawn) / fmean(between)


def root_mean_square(difference: Tensor) -> float:
    return torch.linalg.vector_norm(difference.double()).item() / difference.numel() ** 0.5
