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
    """How images are drawn, in diffusers' words."""

    scheduler: str = "ddpm"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    eta: float = 0.0

    @property
    def is_guided(self) -> bool:
        """Whether the negative prompt plays a part: at 1 and below diffusers draws without it."""
        return self.guidance_scale > 1

    def gaussian_eta(self) -> float:
        """The DDIM eta to which this plan's steps are Gaussian, DDPM being 1; see `core.kl`.

        Raises UsageError where steps are not Gaussian and so have no KL.
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
        """The source of the weights that draw. Raises UsageError when it was not given."""

    def plan(self, plan: SamplingPlan) -> SamplingPlan:
        """The sampler settings, made from the main agent's."""


@dataclass(frozen=True)
class Same:
    """The main agent again, with noise of its own: EXPO-I."""

    def policy(self, policies: Policies) -> str:
        return policies.current

    def plan(self, plan: SamplingPlan) -> SamplingPlan:
        return plan


@dataclass(frozen=True)
class Previous(Same):
    """The policy of the iteration before, theta_{t-1}."""

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
    """The current weights under other sampler settings; what is not named stays as it is."""

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
    """Any weights at all, such as a second policy trained with its own alpha."""

    path: str

    def policy(self, policies: Policies) -> str:
        return self.path
