"""The objectives as formulas: functions of denoising errors, never of models.

`m(x)` is the mean squared denoising error of one latent, over channels and pixels.
`s = m_policy - m_reference` (lower: more likely than under the reference). beta follows the
Diffusion-DPO authors' code: `k = beta / 2` multiplies a difference of mean errors, so beta 5000
is k = 2500 (diffusers' DPO script calls that beta 2500).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def denoising_error(prediction: Tensor, target: Tensor) -> Tensor:
    """m(x) of each latent: [batch, channels, height, width] twice -> fp32 [batch]."""
    return (prediction.float() - target.float()).square().flatten(start_dim=1).mean(dim=1)


@dataclass(frozen=True)
class Errors:
    """m of the policy and the reference for the same noisy latents, each [batch]."""

    policy: Tensor
    reference: Tensor

    @property
    def change(self) -> Tensor:
        """s = m_policy - m_reference, [batch]."""
        return self.policy - self.reference


@dataclass(frozen=True)
class PairErrors:
    """The errors of a batch of pairs; only the roles that the objective asks for are set.

    Winner and loser share timestep and noise, and so do explore and main. `explored` [batch] is 1
    where a pair has explore and main samples (elsewhere their errors are 0), `explored_share` the
    share of all visits that goes to such pairs, and `explore_gain` [batch] the explore sample's
    score minus the main one's.
    """

    winner: Errors
    loser: Errors | None = None
    explore: Errors | None = None
    main: Errors | None = None
    explored: Tensor | None = None
    explore_gain: Tensor | None = None
    explored_share: float = 1.0


@dataclass(frozen=True)
class ImageErrors:
    """The errors of a batch of images, each desirable or not.

    `desirable` is a bool [batch]. `mismatched` are the errors with prompts of other images, for an
    objective whose `reference_point` is `mismatched`. `mean_gain` is the mean of m_ref - m_policy
    over the batches of all processes, of the mismatched ones if there are any, without gradient.
    """

    image: Errors
    desirable: Tensor
    mismatched: Errors | None = None
    mean_gain: Tensor | None = None


class Objective(ABC):
    """A loss over evidence of one kind; your own objective inherits from this class."""

    learns_from: ClassVar[str] = "pairs"
    """The kind of evidence: pairs, images or steps (`stages.train.records.EVIDENCE`)."""

    needs_reference: ClassVar[bool] = True

    mixes_batch: ClassVar[bool] = False
    """Whether an item's loss depends on the other items of its forward pass."""

    roles: tuple[str, ...] = ("winner", "loser")
    """For pairs: the samples whose errors it needs, any of winner, loser, explore, main."""

    k: float | None = None
    """The factor of an error difference in the logit, if there is one; printed by `train`."""

    weight_at_zero: float | None = None
    """The `weight` of an item whose logit is 0, if there is one."""

    @abstractmethod
    def terms(self, evidence: Any) -> dict[str, Tensor]:
        """The terms whose sum is the loss, each [batch]. The main term comes first."""

    def weight(self, evidence: Any) -> Tensor | None:
        """|d loss / d logit| of each item, [batch]; an item near 0 is saturated."""
        return None


def preference_logits(errors: PairErrors, beta: float) -> Tensor:
    """k (s_l - s_w): how much more the policy prefers the winner than the reference does."""
    return 0.5 * beta * (errors.loser.change - errors.winner.change)


def slope(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """|d loss / d logit| of each item, [batch]."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(loss(logits).sum(), logits)[0].abs()


def require_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive, got {value}")


@dataclass(frozen=True)
class SFT(Objective):
    """The diffusion loss on winners only, without a reference.

    Trained on the best of fresh samples in every iteration, this is RAFT (Dong et al., arXiv
    2304.06767).
    """

    roles = ("winner",)
    needs_reference = False

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        return {"sft": errors.winner.policy}


@dataclass(frozen=True)
class DiffusionDPO(Objective):
    """Diffusion-DPO (Wallace et al., arXiv 2311.12908, eq. 14; EXPO, Eq. 3) and variants of it.

    With the logit z = k (s_l - s_w), `loss` is one of

    - `sigmoid`: -log sigmoid(z). With `label_smoothing` e, the assumed share of wrong labels, it
      is -(1 - e) log sigmoid(z) - e log sigmoid(-z): conservative DPO (Mitchell, 2023).
    - `hinge`: max(0, 1 - z), as in SLiC (Zhao et al., arXiv 2305.10425).
    - `ipo`: (z - 1/2)^2 (Azar et al., arXiv 2310.12036, eq. 17). With k as their tau it is tau^2
      times their loss: s_l - s_w is pulled to 1 / (2 k).
    """

    beta: float = 5000.0
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"label_smoothing must be at least 0 and below 0.5, got {self.label_smoothing}"
            )
        if self.label_smoothing and self.loss != "sigmoid":
            raise ValueError(f"label_smoothing belongs to loss=sigmoid, not {self.loss}")

    @property
    def k(self) -> float:
        return 0.5 * self.beta

    def preference(self, z: Tensor) -> Tensor:
        """The loss of each logit."""
        if self.loss == "hinge":
            return F.relu(1 - z)
        if self.loss == "ipo":
            return (z - 0.5).square()
        smoothing = self.label_smoothing
        return -(1 - smoothing) * F.logsigmoid(z) - smoothing * F.logsigmoid(-z)

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        return {"preference": self.preference(preference_logits(errors, self.beta))}

    def weight(self, errors: PairErrors) -> Tensor:
        return slope(self.preference, preference_logits(errors, self.beta))

    @property
    def weight_at_zero(self) -> float:
        return slope(self.preference, torch.zeros(1)).item()


# The samples, besides winner and loser, whose errors the second term needs.
EXPLORATION_ROLES = {
    "pair": ("explore", "main"),
    "main": ("main",),
    "rejected": (),
    "reference": ("explore",),
}


@dataclass(frozen=True)
class EXPO(DiffusionDPO):
    """EXPO, Eq. 7: Diffusion-DPO plus a second term, for exploration, that uses no reward label.

    The second term is alpha times a mean over the pairs that have samples of both agents (offline ones
    have none): it is divided by their share of all visits. With k_ex s as an estimate of
    -beta log(pi / pi_ref), `term` is one of

    - `pair`: sigmoid(k_ex (s_explore - s_main)), as EXPO, Eq. 7: towards the exploring agent's sample
      and away from the main agent's.
    - `main`: sigmoid(-k_ex s_main), as SE-POPO (arXiv 2502.00666): away from the main agent's sample.
      Theirs is divided by beta.
    - `rejected`: sigmoid(-k_ex s_loser), after GEB (arXiv 2510.03269): away from the loser, whose
      probability they lower.
    - `reference`: -k_ex s_explore, as XPO (arXiv 2405.21046): away from a sample of the reference, so
      the exploring agent must be `--explorer reference`. It has no lower bound.

    `explore_beta` is the second term's beta (default: beta, k_ex = beta / 2). `gated` keeps the pairs
    whose explore sample scores higher than the main one; the others count as 0 in the mean.
    """

    alpha: float = 0.01
    term: Literal["pair", "main", "rejected", "reference"] = "pair"
    explore_beta: float | None = None
    gated: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(explore_beta=self.explore_beta)
        if not self.alpha >= 0:
            raise ValueError(f"alpha must not be negative, got {self.alpha}")
        if self.gated and self.term != "pair":
            raise ValueError(f"gated belongs to term=pair, not {self.term}")

    @property
    def roles(self) -> tuple[str, ...]:
        return ("winner", "loser", *(EXPLORATION_ROLES[self.term] if self.alpha else ()))

    @property
    def explore_k(self) -> float:
        return 0.5 * (self.beta if self.explore_beta is None else self.explore_beta)

    def exploration(self, errors: PairErrors) -> Tensor:
        """The second term of each pair with samples of both agents, without alpha; [batch]."""
        k = self.explore_k
        if self.term == "main":
            return torch.sigmoid(-k * errors.main.change)
        if self.term == "rejected":
            return torch.sigmoid(-k * errors.loser.change)
        if self.term == "reference":
            return -k * errors.explore.change
        return torch.sigmoid(k * (errors.explore.change - errors.main.change))

    @property
    def alpha_share(self) -> float:
        """The second term's gradient in a sample's error over the first's in the winner's, for a pair
        with samples of both agents and a policy that equals the reference."""
        slope_at_zero = 1.0 if self.term == "reference" else 0.25
        return self.alpha * self.explore_k * slope_at_zero / (self.k * self.weight_at_zero)

    def terms(self, errors: PairErrors) -> dict[str, Tensor]:
        terms = super().terms(errors)
        if not self.alpha:
            return terms
        counted = errors.explored
        if self.gated:
            counted = counted * (errors.explore_gain > 0)
        # Without such pairs all are 0, whatever the share.
        weight = self.alpha * counted / (errors.explored_share or 1)
        return terms | {"exploration": weight * self.exploration(errors)}


@dataclass(frozen=True)
class DiffusionKTO(Objective):
    """Diffusion-KTO (Li et al., arXiv 2404.04465, eq. 8): single images, desirable or not.

    g = m_ref - m_policy, the logit is z = +-beta (g - z0), + for desirable images, and the loss
    1 - U(z). The reference point z0 carries no gradient. It is max(0, mean of g) over the images of
    one forward pass in all processes (`batch`), or the mean of g, of either sign, over the same
    images with each other's prompts (`mismatched`), which estimates the KL as KTO does (Ethayarajh
    et al., arXiv 2402.01306). Both are as in the authors' code. beta multiplies a difference of
    mean errors as it is, without Diffusion-DPO's 1/2.

    U is one of `kahneman-tversky`: sigmoid(z); `loss-averse`: log sigmoid(z); `risk-seeking`:
    -log sigmoid(-z); `exponential`, risk-seeking too: exp(z / 100) - 1, and for undesirable images
    -exp(-z / 100) - 1, as in the authors' code.

    `desirable_fraction` of the visited images are desirable ones, whatever their share of the data.
    """

    beta: float = 1000.0
    utility: Literal["kahneman-tversky", "loss-averse", "risk-seeking", "exponential"] = (
        "kahneman-tversky"
    )
    reference_point: Literal["batch", "mismatched"] = "batch"
    desirable_fraction: float = 0.8

    learns_from = "images"
    mixes_batch = True

    def __post_init__(self) -> None:
        require_positive(beta=self.beta)
        if not 0 < self.desirable_fraction < 1:
            raise ValueError(
                f"desirable_fraction must lie between 0 and 1, got {self.desirable_fraction}"
            )

    @property
    def k(self) -> float:
        return self.beta

    def mean_gain(self, errors: ImageErrors) -> Tensor:
        """The mean of g over this batch that z0 is made of, a scalar without gradient."""
        judged = errors.image if self.reference_point == "batch" else errors.mismatched
        return -judged.change.detach().mean()

    def zero_point(self, errors: ImageErrors) -> Tensor:
        """z0, a scalar without gradient."""
        gain = self.mean_gain(errors) if errors.mean_gain is None else errors.mean_gain
        return gain.clamp(min=0) if self.reference_point == "batch" else gain

    def logits(self, errors: ImageErrors) -> Tensor:
        sign = torch.where(errors.desirable, 1.0, -1.0)
        return sign * self.beta * (-errors.image.change - self.zero_point(errors))

    def loss(self, z: Tensor, desirable: Tensor) -> Tensor:
        if self.utility == "loss-averse":
            return 1 - F.logsigmoid(z)
        if self.utility == "risk-seeking":
            return 1 + F.logsigmoid(-z)
        if self.utility == "exponential":
            sign = torch.where(desirable, 1.0, -1.0)
            return 2 - sign * torch.exp(sign * z / 100)
        return 1 - torch.sigmoid(z)

    def terms(self, errors: ImageErrors) -> dict[str, Tensor]:
        return {"kto": self.loss(self.logits(errors), errors.desirable)}

    def weight(self, errors: ImageErrors) -> Tensor:
        return slope(lambda z: self.loss(z, errors.desirable), self.logits(errors))

    @property
    def weight_at_zero(self) -> float:
        return slope(lambda z: self.loss(z, torch.tensor([True])), torch.zeros(1)).item()
