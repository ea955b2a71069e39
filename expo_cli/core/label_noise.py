"""Labels that contradict the scores now and then, as those of people do."""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from expo_cli.contracts.ids import fraction


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return (1 + math.tanh(x / 2)) / 2


def mean_agreement(margins: Sequence[float], tau: float) -> float:
    """The expected share of labels that agree with the scores, by Bradley and Terry's model."""
    return fmean(sigmoid(margin / tau) for margin in margins)


def temperature(margins: Sequence[float], agreement: float) -> float:
    """The tau at which `mean_agreement` of positive margins is `agreement`, between 0.5 and 1.

    By bisection: the mean falls from 1 to 0.5 as tau grows.
    """
    low, high = 0.0, max(margins)
    while mean_agreement(margins, high) > agreement:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        if mean_agreement(margins, middle) > agreement:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True)
class LabelNoise:
    """Which pairs get the wrong label: by a coin that depends on `seed` and the pair's id alone.

    A pair's label agrees with the scores with probability sigmoid(margin / tau). `tau` is None where
    every pair has the same chance, `agreement`: 0, 0.5 and 1.
    """

    agreement: float
    tau: float | None
    seed: int

    @classmethod
    def of(cls, margins: Iterable[float], agreement: float, seed: int) -> "LabelNoise":
        """The noise at which the mean probability over the pairs with these `margins` is `agreement`."""
        positive = array("d", margins)
        if not positive or agreement in (0, 0.5, 1):
            return cls(agreement, None, seed)
        return cls(agreement, temperature(positive, agreement), seed)

    def flips(self, pair_id: str, margin: float) -> bool:
        kept = self.agreement if self.tau is None else sigmoid(margin / self.tau)
        return fraction("label", self.seed, pair_id) >= kept
