"""Explorers: how the exploring agent differs from the main one (EXPO, Algorithm 1, line 11).

Both agents draw the same prompts under the same negative prompts. An explorer chooses whose
weights draw and with which sampler settings. EXPO-I is `same`; every other choice is EXPO-II.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

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


class Explorer:
    """Your own explorer inherits from this class, which draws as the main agent does."""

    def policy(self, policies: Policies) -> str:
        """The source of the weights to draw with. Raises UsageError when it was not given."""
        return policies.current

    def extrapolation(self, policies: Policies) -> tuple[str, float] | None:
        """The weights and the w of an extrapolation, see `Extrapolate`; None for none.

        Raises UsageError when the weights were not given.
        """
        return None

    def plan(self, plan: SamplingPlan) -> SamplingPlan:
        """The sampler settings, derived from the main agent's."""
        return plan

    def plans(self, plan: SamplingPlan) -> Sequence[SamplingPlan]:
        """Image i of a prompt is drawn with the settings at i modulo their number."""
        return [self.plan(plan)]


@dataclass(frozen=True)
class Same(Explorer):
    """The main agent with different noise: EXPO-I."""


@dataclass(frozen=True)
class Previous(Explorer):
    """The policy of the previous iteration, theta_{t-1}."""

    def policy(self, policies: Policies) -> str:
        if policies.previous is None:
            raise UsageError("--explorer previous needs --previous WEIGHTS")
        return policies.previous


@dataclass(frozen=True)
class Reference(Explorer):
    """The pre-trained reference, p_ref."""

    def policy(self, policies: Policies) -> str:
        if policies.reference is None:
            raise UsageError("--explorer reference needs --ref WEIGHTS")
        return policies.reference


@dataclass(frozen=True, kw_only=True)
class Extrapolate(Explorer):
    """The policy, moved on in the direction in which training moved it away from the reference.

    A step's prediction is `eps_ref + w (eps_policy - eps_ref)`, both under the same guidance. At
    w = 1 that is the policy; above, a step's mean is that of policy^w / reference^(w - 1), the
    second sampler of PILAF (arXiv 2502.04270: w = 1 + beta) and of arXiv 2409.19605, whose theory is
    that of mixing it with the policy's own samples.
    """

    w: float = 1.5

    def __post_init__(self) -> None:
        if not (math.isfinite(self.w) and self.w > 0):
            raise ValueError(f"w must be finite and above 0 (1 is the policy), got {self.w:g}")

    def extrapolation(self, policies: Policies) -> tuple[str, float]:
        if policies.reference is None:
            raise UsageError("--explorer extrapolate needs --ref WEIGHTS")
        return policies.reference, self.w


@dataclass(frozen=True, kw_only=True)
class Sampling(Explorer):
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
        return replace(plan, **{k: v for k, v in asdict(self).items() if v is not None})


@dataclass(frozen=True, kw_only=True)
class Mixture(Explorer):
    """The current weights, each image of a prompt with other sampler settings.

    An option has one value for all settings, or one value per setting; unnamed ones stay unchanged.
    """

    scheduler: tuple[str, ...] = ()
    num_inference_steps: tuple[int, ...] = ()
    guidance_scale: tuple[float, ...] = ()
    eta: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        counts = {name: len(values) for name, values in asdict(self).items() if len(values) > 1}
        if not counts:
            raise ValueError("needs an option with several values, as guidance_scale=1.5/3")
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{count} of {name}" for name, count in counts.items())
            raise ValueError(f"the numbers of values differ: {told}")
        self.settings()

    def settings(self) -> list[Sampling]:
        named = {name: values for name, values in asdict(self).items() if values}
        count = max(map(len, named.values()))
        rows = zip(*(values * (count // len(values)) for values in named.values()), strict=True)
        return [Sampling(**dict(zip(named, row, strict=True))) for row in rows]

    def plans(self, plan: SamplingPlan) -> Sequence[SamplingPlan]:
        return [setting.plan(plan) for setting in self.settings()]


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Explorer):
    """Any other weights, such as a second policy trained with its own alpha."""

    path: str

    def policy(self, policies: Policies) -> str:
        return self.path
