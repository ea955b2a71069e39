"""Means over prompts, paired comparisons and their bootstrap intervals.

The prompt is the unit everywhere: images of one prompt are averaged first and prompts are
resampled, never images, because images of one prompt are not independent.
"""

from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from expo_cli.contracts.results import Estimate

Key = TypeVar("Key", bound=Hashable)
Floats = NDArray[np.float64]

# Resamples drawn at a time: 16 x 100,000 prompts of counts are 13 MB.
RESAMPLES_AT_ONCE = 16


def prompt_means(values: Floats, prompt_of: NDArray[np.int64]) -> Floats:
    """Mean of each prompt's samples: values [samples], prompt numbers [samples] -> [prompts].

    NaN samples are left out; a prompt with no others is NaN.
    """
    known = ~np.isnan(values)
    count = np.bincount(prompt_of, weights=known)
    total = np.bincount(prompt_of, weights=np.where(known, values, 0))
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def wins(scores: Floats, baseline: Floats) -> Floats:
    """1 where a sample beats the baseline's with the same seed, 0.5 at a tie, else 0: [samples].

    NaN (an unusable sample) loses against all but another NaN.
    """
    scores, baseline = (np.where(np.isnan(s), -np.inf, s) for s in (scores, baseline))
    return ((scores > baseline).astype(np.float64) + (scores >= baseline)) / 2


def diversity(embeddings: Floats) -> float:
    """Mean pairwise 1 - cosine of two or more embeddings, [images, dim].

    From |sum of unit vectors|^2 = images + sum of the cosines of all ordered pairs.
    """
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    num_images = len(unit)
    cosines = np.square(unit.sum(axis=0)).sum() - num_images
    return float(1 - cosines / (num_images * (num_images - 1)))


def bootstrap_means(values: Floats, num_resamples: int, seed: int) -> Floats:
    """Means of `num_resamples` resamples of the prompts: [prompts, columns] -> [resamples, columns].

    All columns see the same resamples, so differences between columns stay paired. A resample is
    stored as the count of each prompt, so that all means are one matrix product. NaN prompts are
    left out of a column's means; a mean without others is NaN.
    """
    num_prompts = len(values)
    generator = np.random.default_rng(seed)
    means = np.empty((num_resamples, values.shape[1]))
    known = ~np.isnan(values)
    values, whole = np.where(known, values, 0), known.all()
    for start in range(0, num_resamples, RESAMPLES_AT_ONCE):
        rows = means[start : start + RESAMPLES_AT_ONCE]
        draws = generator.integers(num_prompts, size=(len(rows), num_prompts))
        counts = np.stack([np.bincount(draw, minlength=num_prompts) for draw in draws])
        counts = counts.astype(np.float64)
        with np.errstate(invalid="ignore"):
            rows[:] = counts @ values / (num_prompts if whole else counts @ known)
    return means


def estimates(
    columns: Mapping[Key, Floats], *, num_resamples: int, confidence: float, seed: int
) -> dict[Key, Estimate]:
    """The mean of each column [prompts] with its percentile bootstrap interval over prompts.

    NaN prompts are left out; each column has others. There is no interval for fewer than two.
    B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values = np.stack(list(columns.values()), axis=1)
    means = np.nanmean(values, axis=0)
    if len(values) < 2:
        return {key: Estimate(value=float(mean)) for key, mean in zip(columns, means, strict=True)}
    tail = (1 - confidence) / 2
    several = np.count_nonzero(~np.isnan(values), axis=0) > 1
    resampled = bootstrap_means(values, num_resamples, seed)
    low, high = np.nanquantile(resampled, [tail, 1 - tail], axis=0)
    return {
        key: Estimate(value=float(means[i]), low=float(low[i]), high=float(high[i]))
        if several[i]
        else Estimate(value=float(means[i]))
        for i, key in enumerate(columns)
    }
