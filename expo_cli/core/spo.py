"""SPO: trains on pairs of denoising steps, with a clipped ratio to the reference."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from expo_cli.core.objectives import Objective, require_positive


@dataclass(frozen=True)
class LogDensities:
    """log p(x_{t-1} | x_t) of one candidate per step by policy and reference, each [batch].

    Both are means over the elements of the latents, so their difference is small.
    """

    policy: Tensor
    reference: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log r = log p_policy - log p_reference, [batch]."""
        return self.policy - self.reference

    @property
    def ratio(self) -> Tensor:
        return self.log_ratio.exp()


@dataclass(frozen=True)
class StepDensities:
    """The densities of a batch of step pairs: two candidates from the same x_t."""

    winner: LogDensities
    loser: LogDensities


@dataclass(frozen=True)
class SPO(Objective):
    """Step-by-step preference optimisation (Liang et al., arXiv 2406.04314, and its authors' code).

    The loss is -log sigmoid(beta (log r_winner - log r_loser)) with every ratio r clipped to
    1 - clip .. 1 + clip. A clipped ratio has no gradient, which bounds how far the policy moves from
    its reference at a step.
    """

    beta: float = 10.0
    clip: float = 0.1

    learns_from = "steps"

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must lie between 0 and 1, got {self.clip}")

    def log_ratio(self, densities: LogDensities) -> Tensor:
        return densities.ratio.clamp(1 - self.clip, 1 + self.clip).log()

    def terms(self, steps: StepDensities) -> dict[str, Tensor]:
        advantage = self.log_ratio(steps.winner) - self.log_ratio(steps.loser)
        return {"preference": -F.logsigmoid(self.beta * advantage)}

    def clipped(self, densities: LogDensities) -> Tensor:
        """1 where the ratio is clipped, else 0, [batch]."""
        return ((densities.ratio - 1).abs() > self.clip).float()
