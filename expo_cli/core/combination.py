"""Combines several rewards' scores of one prompt's samples into one score per sample.

In all functions `scores` is [num_rewards][num_samples] and higher is better.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol


class Combination(Protocol):
    """Combines several rewards into one.

    If `unanimous`, a pair counts only if its winner dominates its loser.
    """

    unanimous: ClassVar[bool]

    def __call__(self, scores: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
        """The combined score of each sample [num_samples]; `weights` is [num_rewards]."""


@dataclass(frozen=True)
class ZScoreSum:
    """Weighted sum of each reward's z-scores within the prompt: no reward wins by its scale."""

    unanimous: ClassVar[bool] = False

    def __call__(self, scores: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
        total = weighted_sum([z_scores(column) for column in scores], weights)
        # Two rewards that cancel out make a tie; rounding errors of 1e-16 must not break it.
        return [round(score, 9) for score in total]


@dataclass(frozen=True)
class Pareto(ZScoreSum):
    """As ZScoreSum, but a pair is dropped if any reward prefers its loser."""

    unanimous: ClassVar[bool] = True


@dataclass(frozen=True)
class RankSum:
    """Weighted sum of each reward's ranks within the prompt: outliers count no more than others."""

    unanimous: ClassVar[bool] = False

    def __call__(self, scores: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
        return weighted_sum([ranks(column) for column in scores], weights)


@dataclass(frozen=True)
class WeightedSum:
    """Weighted sum of the scores themselves: the reward with the larger spread wins."""

    unanimous: ClassVar[bool] = False

    def __call__(self, scores: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
        return weighted_sum(scores, weights)


def weighted_sum(scores: Sequence[Sequence[float]], weights: Sequence[float]) -> list[float]:
    return [
        math.fsum(weight * score for weight, score in zip(weights, sample, strict=True))
        for sample in zip(*scores, strict=True)
    ]


def z_scores(scores: Sequence[float]) -> list[float]:
    """Standard deviations (of the population) above the mean; all 0 when the scores are equal."""
    if max(scores) == min(scores):
        return [0.0] * len(scores)
    mean = math.fsum(scores) / len(scores)
    deviations = [score - mean for score in scores]
    # hypot, because squares of very small deviations would underflow to 0.
    standard_deviation = math.hypot(*deviations) / math.sqrt(len(scores))
    return [deviation / standard_deviation for deviation in deviations]


def ranks(scores: Sequence[float]) -> list[float]:
    """Rank of each score, from 0 for the lowest; equal scores share the mean of their ranks."""
    ordered = sorted(scores)
    return [(bisect_left(ordered, s) + bisect_right(ordered, s) - 1) / 2 for s in scores]


def dominates(winner: Sequence[float], loser: Sequence[float]) -> bool:
    """Whether `winner` is at least as good in every reward and better in one; [num_rewards]."""
    gains = [better - worse for better, worse in zip(winner, loser, strict=True)]
    return min(gains) >= 0 and max(gains) > 0
