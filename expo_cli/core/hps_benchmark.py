"""The HPS benchmark's protocol (Wu et al., arXiv 2306.09341, section 5.1; `hpsv2.evaluate`).

Four styles of 800 prompts, an image each. A style's score is the mean of its images, and its spread
the population standard deviation of the means of ten groups of consecutive images.
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
    """Of scores [images] in the order of the prompts' file, of which the groups are equal parts."""
    return float(scores.reshape(NUM_GROUPS, -1).mean(axis=1).std())


def with_group_std(
    results: Sequence[PolicyResult],
    policies: Sequence[PolicySamples],
    category_of: Sequence[str | None],
    num_prompts: int,
) -> list[PolicyResult]:
    """The results with the `group_std` of each category; `category_of` is each sample's, [samples].

    Raises ExpoError when the samples are not those of the protocol.
    """
    if len(category_of) != num_prompts:
        raise ExpoError(
            f"the HPS benchmark has one image a prompt, not {len(category_of)} of {num_prompts}"
        )
    if None in category_of:
        raise ExpoError(
            "the HPS benchmark goes by style, and there are prompts without a category; "
            "`expo prep-prompts --layout hps-benchmark` gives them theirs"
        )
    rows = {name: np.array([c == name for c in category_of]) for name in results[0].categories}
    for name, chosen in rows.items():
        if chosen.sum() % NUM_GROUPS:
            raise ExpoError(
                f"style {name!r} has {chosen.sum()} images, which make no ten equal groups; keep "
                "all of its prompts (prep-prompts --max-tokens 1000)"
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
