import numpy as np
import pytest
from scipy import stats

from expo_cli.core.statistics import (
    bootstrap_means,
    diversity,
    estimates,
    prompt_means,
    wins,
)


def one(values, **settings):
    settings = {"num_resamples": 2000, "confidence": 0.95, "seed": 0} | settings
    return estimates({"it": np.asarray(values, dtype=float)}, **settings)["it"]


def test_images_are_averaged_within_their_prompt():
    # Prompt 0 has images 1 and 3, prompt 1 has 10: every prompt counts once, whatever it has.
    means = prompt_means(np.array([1.0, 10.0, 3.0]), np.array([0, 1, 0]))
    assert means.tolist() == [2.0, 10.0]
    assert one(means).value == 6.0


def test_wins_by_hand():
    scores, baseline = np.array([2.0, 1.0, 1.0]), np.array([1.0, 1.0, 2.0])
    assert wins(scores, baseline).tolist() == [1.0, 0.5, 0.0]


def test_what_is_not_good_is_left_out_of_means_and_loses():
    nan = float("nan")
    means = prompt_means(np.array([1.0, nan, 3.0, nan]), np.array([0, 0, 1, 2]))
    assert means.tolist()[:2] == [1.0, 3.0]
    assert np.isnan(means[2])
    assert one(means).value == 2.0
    scores, baseline = np.array([nan, 1.0, nan, -9.0]), np.array([1.0, nan, nan, nan])
    assert wins(scores, baseline).tolist() == [0.0, 1.0, 0.5, 1.0]


def test_the_interval_is_over_the_prompts_that_have_a_mean():
    """As that of these prompts alone, but for which resamples are drawn."""
    values = np.random.default_rng(0).normal(size=400)
    some = np.where(np.arange(400) % 2, np.nan, values)
    ours, alone = one(some, num_resamples=4000), one(values[::2], num_resamples=4000)
    assert ours.value == pytest.approx(alone.value)
    assert ours.low == pytest.approx(alone.low, abs=0.02)
    assert ours.high == pytest.approx(alone.high, abs=0.02)


def test_one_prompt_that_has_a_mean_has_no_interval():
    found = one([float("nan"), 2.0, float("nan")])
    assert (found.value, found.low, found.high) == (2.0, None, None)


def test_diversity_by_hand():
    # Ordered pairs: two of cosine 1 (equal directions), four of cosine 0: 1 - 2/6.
    embeddings = np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    assert diversity(embeddings) == pytest.approx(2 / 3)
    assert diversity(np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(2.0)


def test_interval_agrees_with_scipy():
    values = np.random.default_rng(1).gamma(2.0, size=120)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    ours = one(values, num_resamples=20_000)
    spread = expected.high - expected.low
    assert ours.low == pytest.approx(expected.low, abs=0.02 * spread)
    assert ours.high == pytest.approx(expected.high, abs=0.02 * spread)


def test_interval_is_that_of_the_normal_mean():
    values = np.random.default_rng(3).normal(size=1000)
    half_width = 1.96 * values.std() / np.sqrt(1000)
    ours = one(values, num_resamples=10_000)
    assert (ours.high - ours.low) / 2 == pytest.approx(half_width, rel=0.05)


def test_resamples_are_shared_so_that_pairing_counts():
    """Prompts differ by 100, the policies by exactly 1: only a paired interval can see it."""
    base = np.random.default_rng(0).normal(scale=100, size=50)
    both = bootstrap_means(np.stack([base, base + 1], axis=1), num_resamples=200, seed=0)
    np.testing.assert_allclose(both[:, 1] - both[:, 0], 1)


def test_equal_values_have_an_interval_of_no_width():
    assert (one([2.0, 2.0]).low, one([2.0, 2.0]).high) == (2.0, 2.0)


def test_one_prompt_has_no_interval():
    estimate = one([2.0])
    assert (estimate.value, estimate.low, estimate.high) == (2.0, None, None)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        estimate = one(rng.normal(size=60), num_resamples=500, confidence=0.9, seed=trial)
        hits += estimate.low <= 0 <= estimate.high
    assert 0.84 < hits / 300 < 0.95


def test_other_columns_do_not_change_an_interval():
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(size=40), "b": rng.normal(size=40)}
    settings = {"num_resamples": 100, "confidence": 0.95, "seed": 0}
    together = estimates(columns, **settings)
    alone = estimates({"b": columns["b"]}, **settings)
    assert together["b"].low == pytest.approx(alone["b"].low, rel=1e-12)
    assert together["b"].high == pytest.approx(alone["b"].high, rel=1e-12)
