"""Whether a training learns, judged by its metrics: one line, with a remedy if it does not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

# Shares of the reference's error. The thresholds are read off trainings of the embedded model, 30 steps
# at learning rates from 1e-8 (nothing happens: changes below STILL) to 1e-3 (the policy breaks).
STILL = 1e-4
RISING = 0.01
BREAKING = 0.1
SATURATED = 0.5
# Standard errors by which an implicit accuracy must differ from chance.
SURE = 2.0


@dataclass(frozen=True)
class Learning:
    """The measurements of a window of steps: a line of `metrics.jsonl`, averages over `num_items` items.

    `favoured` and `other` are names of errors: winner and loser, or desirable and undesirable.
    """

    metrics: Mapping[str, float]
    favoured: str
    other: str
    num_items: int

    def change(self, name: str) -> float | None:
        """The error's change against the reference, relative to the reference's error."""
        change = self.metrics.get(f"{name}_error_change")
        reference = self.metrics.get(f"reference_{name}_error")
        return None if change is None or not reference else change / reference

    @property
    def accuracy(self) -> float | None:
        return self.metrics.get("implicit_accuracy")

    @property
    def saturation(self) -> float:
        """The share of items with hardly any gradient left; for SPO, the share of clipped ratios."""
        return self.metrics.get("saturation", self.metrics.get("clipped", 0.0))

    @property
    def sureness(self) -> float:
        """The implicit accuracy's distance from chance, in standard errors of a fair coin."""
        return 2 * (self.accuracy - 0.5) * math.sqrt(self.num_items)

    def figures(self) -> str:
        """The available measurements in words."""
        parts = [f"weights moved by {self.metrics['weight_change']:.1e} of their norm"]
        for name in (self.favoured, self.other):
            if (change := self.change(name)) is not None:
                parts.append(f"{name} error {change:+.2%}")
        if self.accuracy is not None:
            parts.append(f"implicit accuracy {self.accuracy:.2f} of {self.num_items}")
        if "saturation" in self.metrics or "clipped" in self.metrics:
            parts.append(f"{self.saturation:.0%} saturated")
        return ", ".join(parts)

    def verdict(self) -> str:
        """What the figures mean, and what to do."""
        favoured = self.change(self.favoured)
        if self.is_still():
            return (
                f"hardly moves; raise --learning-rate (now {self.metrics['learning_rate']:.3g}), or "
                "add --scale-lr if the rate is meant per item"
            )
        if favoured is not None and favoured > BREAKING:
            return f"the {self.favoured} error grows, images will suffer; lower --learning-rate"
        if self.saturation > SATURATED:
            return "most items teach nothing more; draw fresh pairs, take fewer steps or lower beta"
        if self.accuracy is None:
            return "moves; whether for the better, expo evaluate tells"
        if self.sureness < -SURE:
            return (
                "prefers what it should not; lower --learning-rate, and check which of the pairs' "
                "sides wins"
            )
        if self.sureness < SURE:
            return (
                "no better than chance yet; train on, raise --learning-rate, or make pairs with a "
                "larger --min-margin"
            )
        if favoured is not None and favoured > RISING:
            return (
                f"learns, but the {self.favoured} error rises too, if less than the {self.other} "
                "one; compare images with expo evaluate"
            )
        return "learns"

    def is_still(self) -> bool:
        changes = [self.change(name) for name in (self.favoured, self.other)]
        known = [abs(change) for change in changes if change is not None]
        if known:
            return max(known) < STILL
        return self.metrics["weight_change"] < 1e-6

    def __str__(self) -> str:
        return f"{self.verdict()} ({self.figures()})"
