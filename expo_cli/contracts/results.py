"""`results.json` and `samples.jsonl` of an evaluation: every figure in a report.

A difference is always paired: this policy minus the other, on the same prompts, seeds and indices.
Fields are only ever added.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

# The drift figures, in the order of the tables; `core.image_statistics` has their formulas.
DRIFT_FIGURES = ("saturation", "contrast", "colorfulness", "clipped", "edge_energy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over prompts and its bootstrap interval; no interval with fewer than two prompts."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def rises(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low is not None and self.low > 0

    @property
    def falls(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.high is not None and self.high < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardResult:
    """One reward over one set of prompts. Differences and win rate are None for the baseline.

    `group_std` is the population standard deviation of the means of ten groups of consecutive
    images; it is set for categories by the HPS benchmark's protocol.
    """

    num_prompts: int
    mean: Estimate
    difference: Estimate | None = None
    win_rate: Estimate | None = None
    group_std: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KLResult:
    """KL along the trajectory to the rollout's `--kl-to` weights, in nats per sample.

    `per_dimension` is nats divided by the number of latent elements, None when the latents are gone.
    `per_step` is the mean of each denoising step; the last one (sigma 0) is left out of the KL.
    """

    nats: Estimate
    num_dimensions: int | None
    per_dimension: float | None
    per_step: list[float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftResult:
    """One figure of `Checks`. `shift` is the difference in standard deviations over the baseline's
    prompts (None when the baseline does not vary); `base_range` is the range of means within
    `core.alarms.MAX_SHIFT` of them.
    """

    mean: Estimate
    difference: Estimate | None
    shift: float | None
    base_range: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiversityResult:
    """Mean pairwise 1 - cosine of the image embeddings within a prompt."""

    mean: Estimate
    difference: Estimate | None = None


# Sampler settings, apart from negative prompts: fields of both `Sample` and `SamplerSettings`.
SAMPLER_SETTINGS = (
    "scheduler",
    "num_inference_steps",
    "guidance_scale",
    "eta",
    "width",
    "height",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """How some of a policy's samples were drawn. `negative_prompts` is a sha256 over (sample,
    negative prompt), None when there are none.
    """

    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    eta: float
    width: int
    height: int
    num_samples: int
    negative_prompts: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyResult:
    """All figures of one policy.

    Keys of `rewards`, `diversity` and `change` are reward labels; those of `categories` are
    categories, then reward labels. `change` is the paired difference to the preceding policy.
    `num_flagged` images are NaN or black: they are left out of every mean and of both sides of a
    difference, and lose in win rates. `seed` is that of the rollout; `sampling` has one entry per
    distinct sampler setting.
    """

    label: str
    rewards: dict[str, RewardResult]
    categories: dict[str, dict[str, RewardResult]]
    change: dict[str, Estimate]
    kl: KLResult | None
    drift: dict[str, DriftResult]
    diversity: dict[str, DiversityResult]
    num_nan: int
    num_black: int
    num_flagged: int = 0
    seed: int | None = None
    sampling: list[SamplerSettings] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """`alarm` when the intervals exclude chance, `warning` when only the estimates do."""

    level: Literal["alarm", "warning"]
    policy: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceShare:
    """One agent under one sampler setting: its shares of a round's images, winners and losers."""

    agent: str
    scheduler: str
    num_inference_steps: int
    guidance_scale: float
    eta: float
    images: float
    winners: float
    losers: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """The pairs that a policy was the first to learn from; a row of the ledger.

    `margin` is the mean of the winner's score minus the loser's. `spread` is the mean over the same
    prompts of the best minus the worst score of all images drawn, `spread_without_explore` of the
    main agent's alone; None without their scores. `winner_distance` is the root mean square distance
    of the latents of the exploring agent's winners to the nearest image of the main agent, over the
    mean distance of two images of the main agent of that prompt; None without such winners, or
    with one image per prompt. `gain` is the training reward's change against the preceding policy,
    `gain_per_1000_images` the same for each thousand images that were scored.
    """

    label: str
    num_pairs: int
    num_images: int
    sources: list[SourceShare]
    margin: float
    spread: float | None
    spread_without_explore: float | None
    winner_distance: float | None
    gain: Estimate | None
    gain_per_1000_images: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which policy to keep, and whether to train on: `evaluate --watched-reward`.

    `best` is the baseline if every other policy is in `rejected`, label -> reason. With `stop` the
    last policy raised the training reward while the watched one fell; go back to `best`.
    """

    best: str
    reason: str
    stop: bool
    rejected: dict[str, str]
    rewards_used: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """`results.json`."""

    title: str
    verdict: str = ""
    baseline: str
    rewards: list[str]
    training_reward: str | None
    heldout_reward: str | None
    watched_reward: str | None = None
    choice: Choice | None = None
    num_prompts: int
    num_samples: int
    num_images_per_prompt: float | None = None
    confidence: float
    num_bootstrap: int
    policies: list[PolicyResult]
    alarms: list[Alarm] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ledger: list[RoundResult] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def policy(self, label: str) -> PolicyResult:
        return next(policy for policy in self.policies if policy.label == label)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedSample:
    """A line of `samples.jsonl`: one image of one policy, with its scores.

    `image` is relative to the policy's rollout folder (results.json names it). A flagged image, NaN
    or black, has no scores.
    """

    label: str
    sample_id: str
    prompt_id: str
    prompt: str
    category: str | None
    index: int
    seed: int
    scores: dict[str, float]
    kl: float | None
    image: str | None
    flagged: bool = False
