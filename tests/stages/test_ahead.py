"""Work ahead keeps its order and its errors, and stops when nobody wants more."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.stages.common.ahead import NUM_THREADS, map_ahead


@given(st.lists(st.integers()), st.integers(0, 5))
def test_results_are_those_of_the_items_in_their_order(items, ahead):
    assert list(map_ahead(lambda item: item + 1, items, ahead)) == [item + 1 for item in items]


def test_the_next_items_are_at_work_before_the_first_result_is_taken():
    begun = threading.Event()

    def function(item: int) -> int:
        if item == 1:
            begun.set()
        return item

    results = map_ahead(function, range(10), ahead=1)
    assert next(results) == 0
    assert begun.wait(timeout=300)


def test_an_error_stands_where_its_result_would():
    def function(item: int) -> float:
        return 1 / item

    results = map_ahead(function, [2, 1, 0, 4], ahead=3)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_nobody_asks_for_is_not_begun():
    seen = []
    results = map_ahead(seen.append, range(1000), ahead=2)
    next(results)
    results.close()
    assert len(seen) <= 3 + NUM_THREADS
