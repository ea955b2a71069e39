"""Which file each visit goes to under `--mix`."""

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.core.mix import parse_mix, pools
from expo_cli.core.visits import VisitOrder, visits

sizes = st.lists(st.integers(1, 30), min_size=2, max_size=4)


@st.composite
def orders(draw) -> VisitOrder:
    files = draw(sizes)
    weights = [draw(st.integers(1, 5)) for _ in files]
    return VisitOrder(draw(st.integers(0, 99)), tuple(files), tuple(weights))


def pool_of(order: VisitOrder, item: int) -> int:
    ends = [sum(order.sizes[: pool + 1]) for pool in range(len(order.sizes))]
    return next(pool for pool, end in enumerate(ends) if item < end)


@pytest.mark.parametrize(
    ("mix", "files", "expected"),
    [
        (None, [3, 5], ((8,), (1,))),
        ("newest=0.5", [3, 5, 2], ((8, 2), (1, 1))),
        ("newest=0.2", [3, 5], ((3, 5), (4, 1))),
        ("newest=0.75", [3, 5], ((3, 5), (1, 3))),
        ("newest=0.5", [3], ((3,), (1,))),
        ("2,1,1", [3, 5, 2], ((3, 5, 2), (2, 1, 1))),
        ("4,2", [3, 5], ((3, 5), (2, 1))),
    ],
)
def test_pools_and_weights_of_a_mix(mix, files, expected):
    assert pools(mix, files) == expected


@pytest.mark.parametrize(
    "mix", ["", "newest", "newest=", "newest=0", "newest=1", "newest=nan", "newest=1/0", "0,1"]
)
def test_a_mix_without_a_meaning_is_refused(mix):
    with pytest.raises(ValueError, match="--mix must be newest=SHARE .*; got"):
        parse_mix(mix)


def test_every_file_needs_a_weight():
    with pytest.raises(ValueError, match="--mix 2,1: 2 weights for 3 pair files"):
        pools("2,1", [3, 5, 2])


@given(st.integers(0, 99), st.integers(1, 50), st.integers(0, 200), st.none() | st.integers(1, 3))
def test_without_a_mix_the_stream_is_that_of_shuffled_epochs(seed, size, start, draws):
    order = VisitOrder(seed, *pools(None, [size]), draws)
    assert order.visits(start, 20) == visits(seed, size, start, 20, draws)


@given(orders(), st.integers(0, 20))
def test_the_shares_are_exact_in_every_block(order, block):
    found = order.visits(block * order.block_size, order.block_size)
    counts = Counter(pool_of(order, visit.item) for visit in found)
    assert [counts[pool] for pool in range(len(order.sizes))] == list(order.weights)


@given(orders(), st.integers(0, 300), st.integers(0, 40))
def test_a_visit_is_a_function_of_its_place(order, start, count):
    assert order.visits(start, count) == order.visits(0, start + count)[start:]


@given(orders())
def test_every_file_is_visited_in_epochs_of_its_own(order):
    """The draw counts the earlier visits to an item, and no item is two visits behind another of its
    file."""
    earlier = Counter()
    for visit in order.visits(0, 200):
        assert visit.draw == earlier[visit.item]
        earlier[visit.item] += 1
    for pool, size in enumerate(order.sizes):
        first = sum(order.sizes[:pool])
        counts = [earlier[item] for item in range(first, first + size)]
        assert max(counts) - min(counts) <= 1


def test_no_process_sees_one_file_only():
    """Of two processes with one pair each, both see about half of the new ones."""
    order = VisitOrder(0, *pools("newest=0.5", [300, 50]))
    of_the_first = [visit.item >= 300 for visit in order.visits(0, 2000)[::2]]
    # A fair coin per block: 1000 tosses, 4 standard deviations.
    assert abs(sum(of_the_first) - 500) < 4 * math.sqrt(250)


@given(orders(), st.integers(1, 3))
def test_bounded_draws_have_all_been_used_after_the_distinct_visits(order, draws):
    bounded = VisitOrder(order.seed, order.sizes, order.weights, draws)
    found = set(bounded.visits(0, bounded.num_distinct))
    assert len(found) == draws * sum(order.sizes)


@given(orders(), st.data())
def test_the_share_of_chosen_items_by_counting(order, data):
    chosen = [data.draw(st.booleans()) for _ in range(sum(order.sizes))]
    period = order.block_size * math.lcm(*order.sizes)  # every item equally often within its file
    if period > 20000:
        return
    visited = [chosen[visit.item] for visit in order.visits(0, period)]
    assert order.share(chosen) == pytest.approx(float(Fraction(sum(visited), period)))
