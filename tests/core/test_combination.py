import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.core.combination import dominates, ranks, z_scores
from expo_cli.registry import COMBINATIONS, build

# Two rewards, three samples. z-scores: (1, 2, 3) -> (-a, 0, a) with a = 1/sqrt(2/3);
# (30, 10, 20) -> (a, -a, 0). Their sums: 0, -a, a.
PICK, HPS = [1.0, 2.0, 3.0], [30.0, 10.0, 20.0]
A = math.sqrt(1.5)

columns = st.lists(st.integers(-100, 100), min_size=2, max_size=8)
two_columns = columns.flatmap(
    lambda first: st.tuples(
        st.just(first), st.lists(st.integers(-100, 100), min_size=len(first), max_size=len(first))
    )
)


def combined(name: str, scores, weights=(1.0, 1.0)) -> list[float]:
    return build(COMBINATIONS, name)(scores, weights)


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("z-score", (1, 1), [0, -A, A]),
        ("z-score", (1, 3), [2 * A, -3 * A, A]),
        ("pareto", (1, 1), [0, -A, A]),
        ("rank", (1, 1), [0 + 2, 1 + 0, 2 + 1]),
        ("rank", (1, 3), [0 + 6, 1 + 0, 2 + 3]),
        ("weighted", (1, 1), [31, 12, 23]),
        ("weighted", (1, 0.5), [16, 7, 13]),
    ],
)
def test_by_hand(name, weights, expected):
    assert combined(name, [PICK, HPS], weights) == pytest.approx(expected)


def test_equal_scores_say_nothing():
    assert z_scores([0.1, 0.1, 0.1]) == [0, 0, 0]
    assert ranks([7, 7, 1, 9]) == [1.5, 1.5, 0, 3]


def test_only_the_weighted_sum_follows_the_larger_spread():
    agree_with_hps = [1.0, 0.0], [0.0, 100.0]
    assert combined("weighted", agree_with_hps) == [1, 100]
    assert combined("z-score", agree_with_hps) == [0, 0]
    assert combined("rank", agree_with_hps) == [1, 1]


@pytest.mark.parametrize(
    ("winner", "loser", "expected"),
    [
        ([2, 2], [1, 1], True),
        ([2, 1], [1, 1], True),
        ([1, 1], [1, 1], False),
        ([9, 1], [1, 2], False),
        ([1, 1], [2, 2], False),
    ],
)
def test_dominates(winner, loser, expected):
    assert dominates(winner, loser) is expected


@given(two_columns, st.integers(1, 1000), st.integers(-1000, 1000))
def test_z_score_sum_does_not_see_scale_or_offset_of_a_reward(scores, scale, offset):
    first, second = scores
    rescaled = [scale * score + offset for score in first]
    expected = combined("z-score", [first, second])
    assert combined("z-score", [rescaled, second]) == pytest.approx(expected, abs=1e-8)


@given(two_columns)
def test_rank_sum_sees_only_the_order_of_each_reward(scores):
    first, second = scores
    stretched = [math.exp(score / 10) for score in first]
    assert combined("rank", [stretched, second]) == combined("rank", [first, second])


@pytest.mark.parametrize("name", COMBINATIONS)
@given(two_columns)
def test_turning_every_reward_round_turns_the_order_round(name, scores):
    size = len(scores[0])
    there = combined(name, scores)
    back = combined(name, [[-score for score in column] for column in scores])
    ranked, ranked_back = ranks(there), ranks(back)
    assert ranked_back == [size - 1 - rank for rank in ranked]


# Half of the smallest subnormal number is 0.
normal_numbers = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(normal_numbers, min_size=2, max_size=8).filter(lambda x: min(x) < max(x)))
def test_z_scores_have_mean_0_and_variance_1(scores):
    standard = z_scores(scores)
    assert math.fsum(z * z for z in standard) / len(standard) == pytest.approx(1)
