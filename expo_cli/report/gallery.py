"""Which images a report shows, chosen by rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from expo_cli.contracts.files import inside
from expo_cli.contracts.ids import digest
from expo_cli.core.evaluation import PolicySamples
from expo_cli.core.statistics import prompt_means
from expo_cli.report.pictures import data_uri, thumbnail

NUM_EXTREMES = 4
IMAGES_PER_SIDE = 3


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image as WebP, None if the rollout wrote none. `scores` has reward labels as keys; None for an
    unusable image."""

    webp: bytes | None
    scores: dict[str, float | None]

    @property
    def uri(self) -> str | None:
        return data_uri(self.webp, "image/webp") if self.webp else None


@dataclass(frozen=True, kw_only=True)
class GridRow:
    """One prompt with one seed: a picture per policy."""

    prompt: str
    category: str | None
    pictures: list[Picture]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One prompt: the same seeds by the baseline and by another policy."""

    prompt: str
    category: str | None
    difference: float
    baseline: list[Picture]
    policy: list[Picture]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The pictures of a report. `best` and `worst` compare `label` with the baseline."""

    grid: list[GridRow]
    label: str
    reward: str
    best: list[Contrast]
    worst: list[Contrast]

    @property
    def has_images(self) -> bool:
        return any(picture.webp for row in self.grid for picture in row.pictures)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The prompts of an evaluation; `prompt_of` [samples] is the number of each sample's prompt."""

    ids: list[str]
    texts: list[str]
    categories: list[str | None]
    prompt_of: NDArray[np.int64]

    def samples(self, prompt: int) -> list[int]:
        return np.flatnonzero(self.prompt_of == prompt).tolist()


def choose_pictures(
    prompts: Prompts,
    policies: Sequence[PolicySamples],
    folders: Sequence[Path],
    baseline: PolicySamples,
    reward: str,
    num_grid_prompts: int,
) -> Gallery:
    """A grid of prompts chosen by hash, and the extremes of the last policy.

    `folders` are the policies' rollouts. Raises ExpoError for an image that is named but missing.
    """
    by_policy = dict(zip((policy.label for policy in policies), folders, strict=True))

    def picture(policy: PolicySamples, sample: int) -> Picture:
        image = policy.images[sample]
        return Picture(
            webp=thumbnail(inside(by_policy[policy.label], image)) if image else None,
            scores={
                label: None if policy.flagged[sample] else float(scores[sample])
                for label, scores in policy.scores.items()
            },
        )

    order = sorted(range(len(prompts.ids)), key=lambda i: digest("grid", prompts.ids[i]))
    grid = [
        GridRow(
            prompt=prompts.texts[prompt],
            category=prompts.categories[prompt],
            pictures=[picture(policy, prompts.samples(prompt)[0]) for policy in policies],
        )
        for prompt in order[:num_grid_prompts]
    ]
    last = policies[-1]
    if last is baseline:
        return Gallery(grid=grid, label=last.label, reward=reward, best=[], worst=[])
    differences = prompt_means(last.scores[reward] - baseline.scores[reward], prompts.prompt_of)
    rising = np.argsort(differences, kind="stable")[: np.count_nonzero(~np.isnan(differences))]
    rising = rising.tolist()  # prompts without a difference are last
    num_extremes = min(NUM_EXTREMES, len(rising) // 2)

    def contrast(prompt: int) -> Contrast:
        samples = prompts.samples(prompt)[:IMAGES_PER_SIDE]
        return Contrast(
            prompt=prompts.texts[prompt],
            category=prompts.categories[prompt],
            difference=float(differences[prompt]),
            baseline=[picture(baseline, sample) for sample in samples],
            policy=[picture(last, sample) for sample in samples],
        )

    return Gallery(
        grid=grid,
        label=last.label,
        reward=reward,
        best=[contrast(prompt) for prompt in reversed(rising[len(rising) - num_extremes :])],
        worst=[contrast(prompt) for prompt in rising[:num_extremes]],
    )
