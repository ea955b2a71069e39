"""The HPS benchmark's protocol (Wu et al., arXiv 2306.09341, section 5.1; `hpsv2.evaluate`).

Four styles of 800 prompts, one image per prompt. A style's score is the mean over its images, its
spread the population standard deviation of the means of ten groups of consecutive images.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from expo_cli.contracts.results import PolicyResult
from expo_cli.core.evaluation import PolicySamples
from expo_cli.core.statistics import Floats
from expo_cli.errors import ExpoError

NUM_GROUPS = 10


def group_std(scores: Floats) -> float:
    """Population standard deviation of group means; scores [images] are in the order of the prompts.

    NaN (an unusable image) is left out, as is a group of only NaN.
    """
    groups = [group[~np.isnan(group)] for group in scores.reshape(NUM_GROUPS, -1)]
    return float(np.std([group.mean() for group in groups if len(group)]))


def with_group_std(
    results: Sequence[PolicyResult],
    policies: Sequence[PolicySamples],
    category_of: Sequence[str | None],
    place_of: Sequence[int],
) -> list[PolicyResult]:
    """The results with `group_std` set for each category.

    Args:
        category_of: the category of each sample, [samples].
        place_of: the position of each sample's prompt in the prompt file, [samples].

    Raises ExpoError when the samples do not fit the protocol.
    """
    num_prompts = len(set(place_of))
    if len(place_of) != num_prompts:
        raise ExpoError(
            f"the HPS benchmark has one image per prompt, not {len(place_of)} of {num_prompts}"
        )
    if None in category_of:
        raise ExpoError(
            "the HPS benchmark needs a category (style) for each prompt; "
            "`expo prep-prompts --layout hps-benchmark` sets it"
        )
    rows: dict[str, list[int]] = {name: [] for name in category_of}
    for i in np.argsort(place_of):
        rows[category_of[i]].append(i)
    most = max(map(len, rows.values()))
    for name, chosen in rows.items():
        if len(chosen) != most or most % NUM_GROUPS:
            expected = (
                f"the {most} of another" if len(chosen) != most else "a multiple of ten, for groups"
            )
            raise ExpoError(
                f"style {name!r} has {len(chosen)} images, not {expected}; keep all of its prompts "
                "(prep-prompts --keep-all)"
            )
    return [
        replace(
            result,
            categories={
                name: {
                    reward: replace(figure, group_std=group_std(samples.scores[reward][rows[name]]))
                    for reward, figure in figures.items()
                }
                for name, figures in result.categories.items()
            },
        )
        for result, samples in zip(results, policies, strict=True)
    ]
