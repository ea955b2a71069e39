"""The intervals of Table 1, over prompts and seeds."""

import numpy as np

from expo_cli.core.statistics import estimates
from recipes.table1.systems import crossed_estimate


def test_the_crossed_interval_of_one_seed_is_that_over_prompts():
    values = np.random.default_rng(0).normal(size=40)
    settings = {"num_resamples": 500, "confidence": 0.95, "seed": 3}
    assert crossed_estimate(values[None], **settings) == estimates({"x": values}, **settings)["x"]


def test_the_crossed_interval_covers_the_truth_where_seeds_and_prompts_both_vary():
    """Effects of seeds and of prompts are drawn anew each time; the true mean is 0. An interval over
    prompts alone, of the seeds' mean, misses it far more often."""
    generator = np.random.default_rng(1)
    crossed, prompts_only = 0, 0
    for _ in range(200):
        seeds, prompts = generator.normal(size=(8, 1)), generator.normal(size=(1, 60))
        values = seeds + prompts + 0.1 * generator.normal(size=(8, 60))
        settings = {"num_resamples": 400, "confidence": 0.95, "seed": 0}
        interval = crossed_estimate(values, **settings)
        crossed += interval.low <= 0 <= interval.high
        interval = estimates({"x": values.mean(axis=0)}, **settings)["x"]
        prompts_only += interval.low <= 0 <= interval.high
    assert crossed >= 170
    assert prompts_only <= 120
