"""Aggregates the figures of samples into paired figures of policies."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from expo_cli.contracts.results import (
    DiversityResult,
    DriftResult,
    Estimate,
    KLResult,
    PolicyResult,
    RewardResult,
    SamplerSettings,
)
from expo_cli.core.alarms import MAX_SHIFT
from expo_cli.core.statistics import Floats, prompt_means, wins
from expo_cli.errors import ExpoError

# (policy, quantity, reward or figure)
Key: TypeAlias = tuple[str, str, str]
Columns: TypeAlias = dict[Key, Floats]
Estimator: TypeAlias = Callable[[Mapping[Key, Floats]], dict[Key, Estimate]]


@dataclass(frozen=True, kw_only=True)
class PolicySamples:
    """The samples of one policy, as columns. All policies have the same samples in the same order.

    Args:
        flagged: which are NaN or black, [samples]; these are NaN in all columns of samples.
        scores: reward label -> [samples].
        kl: nats, [samples]; None unless every good sample has it.
        kl_per_step: mean nats of each step; None unless every good sample has them.
        num_dimensions: number of elements of a sample's latents.
        checks: drift figure -> [samples].
        diversity: label of a reward with embeddings -> [prompts]; NaN with fewer than two good
            images.
        images: relative to `folder`.
        seed: of the rollout, if known.
    """

    label: str
    flagged: NDArray[np.bool_]
    scores: dict[str, Floats]
    kl: Floats | None
    kl_per_step: list[float] | None
    num_dimensions: int | None
    checks: dict[str, Floats]
    num_nan: int
    num_black: int
    diversity: dict[str, Floats]
    images: list[str | None]
    seed: int | None
    sampling: list[SamplerSettings]


def compare(
    policies: Sequence[PolicySamples],
    baseline: PolicySamples,
    prompt_of: NDArray[np.int64],
    categories: Mapping[str, NDArray[np.bool_]],
    estimate: Estimator,
) -> list[PolicyResult]:
    """The results of each policy, compared with the baseline and with the preceding policy.

    Args:
        prompt_of: number of each sample's prompt, from 0, [samples].
        categories: category -> mask of its prompts, [prompts].
        estimate: `core.statistics.estimates` with its settings.

    A category in which a policy has no good or no comparable image is left out. Raises ExpoError
    when no prompt has one.
    """
    columns: Columns = {}
    for policy in policies:
        columns |= _reward_columns(policy, baseline, prompt_of)
    whole = columns.copy()
    for previous, policy in zip([None, *policies], policies, strict=False):
        whole |= _other_columns(policy, baseline, previous, prompt_of)
    if not have_figures(columns):
        label, what, _ = next(key for key, values in columns.items() if np.isnan(values).all())
        where = "" if what == "mean" else f", or those of {baseline.label} with the same seed"
        raise ExpoError(f"{label}: nothing to evaluate: all images are NaN or black{where}")
    figures = estimate({key: values for key, values in whole.items() if is_known(values)})
    by_category = {
        category: {key: values[rows] for key, values in columns.items()}
        for category, rows in categories.items()
    }
    in_category = {
        category: (int(categories[category].sum()), estimate(of_category))
        for category, of_category in by_category.items()
        if have_figures(of_category)
    }
    base_drift = {name: whole[baseline.label, "drift", name] for name in baseline.checks}
    return [
        PolicyResult(
            label=policy.label,
            rewards=_rewards(policy, figures, len(base_drift["contrast"])),
            categories={
                category: _rewards(policy, estimated, num_prompts)
                for category, (num_prompts, estimated) in in_category.items()
            },
            change={
                reward: figures[policy.label, "change", reward]
                for reward in policy.scores
                if (policy.label, "change", reward) in figures
            },
            kl=_kl(policy, figures),
            drift={
                name: _drift(policy.label, name, figures, column)
                for name, column in base_drift.items()
            },
            diversity={
                reward: DiversityResult(
                    mean=figures[policy.label, "diversity", reward],
                    difference=figures.get((policy.label, "diversity difference", reward)),
                )
                for reward in policy.diversity
            },
            num_flagged=int(policy.flagged.sum()),
            num_nan=policy.num_nan,
            num_black=policy.num_black,
            seed=policy.seed,
            sampling=policy.sampling,
        )
        for policy in policies
    ]


def is_known(values: Floats) -> bool:
    """Whether a column has a value for any prompt."""
    return not np.isnan(values).all()


def have_figures(columns: Columns) -> bool:
    return all(map(is_known, columns.values()))


def _reward_columns(
    policy: PolicySamples, baseline: PolicySamples, prompt_of: NDArray[np.int64]
) -> Columns:
    columns: Columns = {}
    for reward, scores in policy.scores.items():
        columns[policy.label, "mean", reward] = prompt_means(scores, prompt_of)
        if policy is not baseline:
            base = baseline.scores[reward]
            columns[policy.label, "difference", reward] = prompt_means(scores - base, prompt_of)
            columns[policy.label, "win rate", reward] = prompt_means(wins(scores, base), prompt_of)
    return columns


def _other_columns(
    policy: PolicySamples,
    baseline: PolicySamples,
    previous: PolicySamples | None,
    prompt_of: NDArray[np.int64],
) -> Columns:
    columns: Columns = {}
    if previous is not None:
        for reward, scores in policy.scores.items():
            change = scores - previous.scores[reward]
            columns[policy.label, "change", reward] = prompt_means(change, prompt_of)
    if policy.kl is not None:
        columns[policy.label, "kl", ""] = prompt_means(policy.kl, prompt_of)
    for name, values in policy.checks.items():
        columns[policy.label, "drift", name] = prompt_means(values, prompt_of)
        if policy is not baseline:
            moved = values - baseline.checks[name]
            columns[policy.label, "drift difference", name] = prompt_means(moved, prompt_of)
    for reward, values in policy.diversity.items():
        columns[policy.label, "diversity", reward] = values
        if policy is not baseline and reward in baseline.diversity:
            difference = values - baseline.diversity[reward]
            columns[policy.label, "diversity difference", reward] = difference
    return columns


def _rewards(
    policy: PolicySamples, figures: Mapping[Key, Estimate], num_prompts: int
) -> dict[str, RewardResult]:
    return {
        reward: RewardResult(
            num_prompts=num_prompts,
            mean=figures[policy.label, "mean", reward],
            difference=figures.get((policy.label, "difference", reward)),
            win_rate=figures.get((policy.label, "win rate", reward)),
        )
        for reward in policy.scores
    }


def _kl(policy: PolicySamples, figures: Mapping[Key, Estimate]) -> KLResult | None:
    if policy.kl is None:
        return None
    nats = figures[policy.label, "kl", ""]
    return KLResult(
        nats=nats,
        num_dimensions=policy.num_dimensions,
        per_dimension=nats.value / policy.num_dimensions if policy.num_dimensions else None,
        per_step=policy.kl_per_step,
    )


def _drift(label: str, name: str, figures: Mapping[Key, Estimate], baseline: Floats) -> DriftResult:
    """`baseline` holds the baseline's values, [prompts]."""
    center, spread = float(np.nanmean(baseline)), float(np.nanstd(baseline))
    mean = figures[label, "drift", name]
    return DriftResult(
        mean=mean,
        difference=figures.get((label, "drift difference", name)),
        shift=(mean.value - center) / spread if spread else None,
        base_range=(center - MAX_SHIFT * spread, center + MAX_SHIFT * spread),
    )
