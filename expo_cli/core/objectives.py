"""The objectives, each its formula: functions of denoising errors, never of models.

`m(x)` is the mean squared denoising error of one latent, over channels and pixels.
`s = m_policy - m_reference` (lower: more likely than under the reference). beta follows the
Diffusion-DPO authors' code: `k = beta / 2` multiplies a difference of mean errors, so beta 5000
is k = 2500 (diffusers' DPO script calls that beta 2500).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """m(x) of each latent: [batch, channels, height, width] twice -> fp32 [batch]."""
    return (prediction.float() - target.float()).square().flatten(start_dim=1).mean(dim=1)


@dataclass(frozen=True)
class Errors:
    """m of the policy and of the reference for the same noisy latents, each [batch]."""

    policy: Tensor
    reference: Tensor

    @property
    def change(self) -> Tensor:
        """s = m_policy - m_reference, [batch]."""
        return self.policy - self.reference


@dataclass(frozen=True)
class PairErrors:
    """What an objective sees of a batch of pairs; only the roles it asked for are there.

    Winner and loser share timestep and noise, and so do explore and main. `explored` [batch] is 1
    where a pair has explore and main samples (elsewhere their errors are 0), `explore_gain`
    [batch] the explore sample's score minus the main one's.
    """

    winner: Errors
    loser: Errors | None = None
    explore: Errors | None = None
    main: Errors | None = None
    explored: Tensor | None = None
    explore_gain: Tensor | None = None


class Objective(Protocol):
    """A loss over evidence of one kind. Two more methods are used where an objective has them:
    `k`, what multiplies a difference of errors, is told to the user; `weight(evidence)` [batch],
    the slope of the loss in z, is watched for saturation.
    """

    learns_from: str
    """The kind of its evidence: pairs (the default where it says nothing), images or steps."""

    needs_reference: bool

    def terms(self, evidence: Any) -> dict[str, Tensor]:
        """The terms whose sum is the loss, each [batch]."""


class PairObjective(Objective, Protocol):
    roles: tuple[str, ...]
    """The samples of a pair whose errors it needs: winner, loser, explore, main."""

    def terms(self, errors: PairErrors) -> dict[str, Tensor]: ...


def learns_from(objective: Objective) -> str:
    return getattr(objective, "learns_from", "pairs")


def preference_logits(errors: PairErrors, beta: float) -> Tensor:
    """k (s_l - s_w): how much more the policy prefers the winner than the reference does."""
    return 0.5 * beta * (errors.loser.change - errors.winner.change)


def check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class SFT:
    """The diffusion loss on winners only, without a reference."""

    roles = ("winner",)
    needs_reference = False

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        return {"sft": errors.winner.policy}


@dataclass(frozen=True)
class DiffusionDPO:
    """Diffusion-DPO (Wallace et al., arXiv 2311.12908, eq. 14; EXPO, Eq. 3)."""

    beta: float = 5000.0

    roles = ("winner", "loser")
    needs_reference = True

    def __post_init__(self) -> None:
        check_positive(beta=self.beta)

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        return {"preference": -F.logsigmoid(preference_logits(errors, self.beta))}


@dataclass(frozen=True)
class EXPO:
    """EXPO, Eq. 7: Diffusion-DPO plus an exploration term without any reward label.

    The second term, alpha * sigmoid(k_ex (s_explore - s_main)), pulls towards what the exploring
    agent drew and away from what the main agent drew. `explore_beta` is its beta (default: beta);
    `gated` keeps it only where the explore sample scores higher than the main one. Pairs without
    such samples (offline ones) have no second term.
    """

    beta: float = 5000.0
    alpha: float = 0.01
    explore_beta: float | None = None
    gated: bool = False

    needs_reference = True

    def __post_init__(self) -> None:
        check_positive(beta=self.beta, explore_beta=self.explore_beta)
        if not self.alpha >= 0:
            raise ValueError(f"alpha must not be negative, got {self.alpha}")

    @property
    def roles(self) -> tuple[str, ...]:
        pair = ("winner", "loser")
        return (*pair, "explore", "main") if self.alpha else pair

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        preference = -F.logsigmoid(preference_logits(errors, self.beta))
        if not self.alpha:
            return {"preference": preference}
        k = 0.5 * (self.beta if self.explore_beta is None else self.explore_beta)
        weight = self.alpha * errors.explored
        if self.gated:
            weight = weight * (errors.explore_gain > 0)
        exploration = weight * torch.sigmoid(k * (errors.explore.change - errors.main.change))
        return {"preference": preference, "exploration": exploration}
