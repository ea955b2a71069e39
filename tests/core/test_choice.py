"""Which iteration `evaluate --watched-reward` keeps, and when it says stop."""

from dataclasses import replace

import pytest

from expo_cli.contracts.results import DiversityResult, Estimate
from expo_cli.core.choice import choose
from tests.core.test_alarms import DOWN, UNCLEAR_DOWN, UNCLEAR_UP, UP, drift, policy, results


def watched(*policies):
    return replace(results(*policies), heldout_reward=None, watched_reward="hps")


def scoring(label: str, mean: float, watched_difference=UP, **other):
    """A policy with this mean of the training reward."""
    found = policy(label, UP, watched_difference, **other)
    better = replace(found.rewards["pick"], mean=Estimate(value=mean))
    return replace(found, rewards=found.rewards | {"pick": better})


def test_the_highest_training_reward_is_best():
    found = choose(watched(scoring("it1", 2.0), scoring("it2", 3.0), scoring("it3", 2.5)))
    assert (found.best, found.stop, found.rejected) == ("it2", False, {})
    assert found.reason.startswith("pick +0.3 [+0.1, +0.5], hps +0.3 [+0.1, +0.5]")
    assert found.rewards_used == ["pick", "hps"]


@pytest.mark.parametrize(
    ("training", "other", "stops"),
    [
        (UP, DOWN, True),
        (UP, UNCLEAR_DOWN, False),
        (UNCLEAR_UP, DOWN, False),
        (DOWN, DOWN, False),
        (UP, UP, False),
    ],
)
def test_it_stops_when_the_training_reward_rises_while_the_watched_one_falls(
    training, other, stops
):
    last = scoring("it2", 3.0, change={"pick": training, "hps": other})
    found = choose(watched(scoring("it1", 2.0), last))
    assert found.stop == stops
    assert found.best == ("it1" if stops else "it2")
    assert ("it2" in found.rejected) == stops


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"watched_difference": DOWN}, "hps -0.3"),
        ({"drift": drift(0.6, 2.0, UP)}, "saturation +2.00 sd"),
        ({"drift": drift(0.6, 2.0, UNCLEAR_UP)}, None),
        ({"drift": drift(0.3, 0.4, UP)}, None),
    ],
)
def test_what_speaks_against_a_policy(other, reason):
    found = choose(watched(scoring("it1", 3.0, **other)))
    assert found.best == ("it1" if reason is None else "base")
    assert [reason in text for text in found.rejected.values()] == [True] * (reason is not None)


def test_a_policy_whose_diversity_halves_is_rejected():
    base, first = policy("base"), scoring("it1", 3.0)
    diverse = {"pick": DiversityResult(mean=Estimate(value=0.5))}
    alike = {"pick": DiversityResult(mean=Estimate(value=0.2))}
    found = replace(
        watched(), policies=[replace(base, diversity=diverse), replace(first, diversity=alike)]
    )
    assert choose(found).rejected == {"it1": "diversity 0.2 of 0.5"}
