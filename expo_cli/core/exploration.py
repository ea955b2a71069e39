"""Explorers: how the exploring agent differs from the main one (EXPO, Algorithm 1, line 11).

Both agents draw the same prompts under the same negative prompts. An explorer chooses whose
weights draw and with which sampler settings. EXPO-I is `same`; every other choice is EXPO-II.
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol

from expo_cli.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """Sampler settings, with diffusers' names."""

    scheduler: str = "ddpm"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    eta: float = 0.0

    @property
    def is_guided(self) -> bool:
        """Whether guidance is used: at a scale of 1 or less diffusers samples without it."""
        return self.guidance_scale > 1

    def gaussian_eta(self) -> float:
        """The DDIM eta of this plan's Gaussian steps (1 for DDPM); see `core.kl`.

        Raises UsageError when the steps are not Gaussian and so have no KL.
        """
        if self.scheduler == "ddpm":
            return 1.0
        if self.scheduler == "ddim" and self.eta > 0:
            return self.eta
        raise UsageError(
            "--kl-to needs Gaussian steps: --scheduler ddpm, or ddim with --eta above 0, "
            f"not {self.scheduler} with eta {self.eta:g}"
        )


@dataclass(frozen=True, kw_only=True)
class Policies:
    """Sources of weights that an explorer may choose from."""

    current: str
    previous: str | None = None
    reference: str | None = None


class Explorer(Protocol):
    def policy(self, policies: Policies) -> str:
        """The source of the weights to draw with. Raises UsageError when it was not given."""

    def plan(self, plan: SamplingPlan) -> SamplingPlan:
        """The sampler settings, derived from the main agent's."""


@dataclass(frozen=True)
class Same:
    """The main agent with different noise: EXPO-I."""

    def policy(self, policies: Policies) -> str:
        return policies.current

    def plan(self, plan: SamplingPlan) -> SamplingPlan:
        return plan


@dataclass(frozen=True)
class Previous(Same):
    """The policy of the previous iteration, theta_{t-1}."""

    def policy(self, policies: Policies) -> str:
        if policies.previous is None:
            raise UsageError("--explorer previous needs --previous WEIGHTS")
        return policies.previous


@dataclass(frozen=True)
class Reference(Same):
    """The pre-trained reference, p_ref."""

    def policy(self, policies: Policies) -> str:
        if policies.reference is None:
            raise UsageError("--explorer reference needs --ref WEIGHTS")
        return policies.reference


@dataclass(frozen=True, kw_only=True)
class Sampling(Same):
    """The current weights with other sampler settings; unnamed ones stay unchanged."""

    scheduler: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    eta: float | None = None

    def __post_init__(self) -> None:
        if self.num_inference_steps is not None and self.num_inference_steps <= 0:
            raise ValueError(
                f"num_inference_steps must be positive, got {self.num_inference_steps}"
            )
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale must be finite, got {self.guidance_scale}")
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be in [0, 1], got {self.eta}")

    def plan(self, plan: SamplingPlan) -> SamplingPlan:
        named = {
            "scheduler": self.scheduler,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "eta": self.eta,
        }
        return replace(plan, **{k: v for k, v in named.items() if v is not None})


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Same):
    """Any other weights, such as a second policy trained with its own alpha."""

    path: str

    def policy(self, policies: Policies) -> str:
        return self.path
