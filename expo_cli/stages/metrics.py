"""What `expo train` measures, and `metrics.jsonl`, where it stands."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expo_cli.contracts import jsonl
from expo_cli.core.objectives import Objective, PairErrors, preference_logits

# Below this weight a pair hardly moves the policy any more: |z| above 2.94.
SATURATED_WEIGHT = 0.05


def measure(
    errors: PairErrors, terms: dict[str, Tensor], loss: Tensor, objective: Objective
) -> dict[str, float]:
    """Means over a micro-batch.

    loss and each term; winner_error, loser_error and the reference's; their changes against the
    reference (s of Eq. 6); implicit_accuracy: share of pairs whose winner the policy prefers more
    than the reference does; saturation: share of pairs whose gradient weight sigmoid(-z) is below
    0.05.
    """
    values = {"loss": loss} | {f"{name}_loss": term for name, term in terms.items()}
    values["winner_error"] = errors.winner.policy.mean()
    if objective.needs_reference:
        values["reference_winner_error"] = errors.winner.reference.mean()
        values["winner_error_change"] = errors.winner.change.mean()
    if "loser" in objective.roles and objective.needs_reference:
        values["loser_error"] = errors.loser.policy.mean()
        values["reference_loser_error"] = errors.loser.reference.mean()
        values["loser_error_change"] = errors.loser.change.mean()
        preferred = errors.loser.change > errors.winner.change
        values["implicit_accuracy"] = preferred.float().mean()
        if hasattr(objective, "beta"):  # an objective of the user's own may have none
            weights = torch.sigmoid(-preference_logits(errors, objective.beta))
            values["saturation"] = (weights < SATURATED_WEIGHT).float().mean()
    numbers = torch.stack([value.detach().float() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))


class MetricsLog:
    """The lines of `metrics.jsonl`, written whole. They hold no times: reruns give equal bytes.

    A line's measurements are means over the steps since the line before.
    """

    def __init__(self, out: Path) -> None:
        self.path = out / "metrics.jsonl"
        self.lines: list[dict[str, Any]] = []
        self.collected: list[dict[str, float]] = []

    def resume(self, finished: int, collected: list[dict[str, float]]) -> None:
        """Keep the lines of the steps that the resumed state has finished."""
        if finished and self.path.exists():
            self.lines = [m for m in jsonl.read(self.path, dict) if m["step"] <= finished]
        self.collected = collected

    def collect(self, values: dict[str, float]) -> None:
        """Take in a step's measurements."""
        self.collected.append(values)

    def add(self, step: int, values: dict[str, float]) -> None:
        """Add the line of a step: what was collected, and `values`."""
        count = len(self.collected)
        means = {key: sum(c[key] for c in self.collected) / count for key in self.collected[0]}
        self.lines.append({"step": step, **means, **values})
        self.collected = []
        self.write()

    def write(self) -> None:
        jsonl.write(self.path, self.lines)

    def last(self) -> dict[str, Any]:
        return self.lines[-1] if self.lines else {}
