from dataclasses import replace

import pytest

from expo_cli.contracts.results import (
    DriftResult,
    Estimate,
    PolicyResult,
    Results,
    RewardResult,
)
from expo_cli.core.alarms import alarms, largest_shift, verdict

UP = Estimate(value=0.3, low=0.1, high=0.5)
DOWN = Estimate(value=-0.3, low=-0.5, high=-0.1)
UNCLEAR_DOWN = Estimate(value=-0.1, low=-0.3, high=0.1)
UNCLEAR_UP = Estimate(value=0.1, low=-0.1, high=0.3)


def policy(label, training=None, heldout=None, **other) -> PolicyResult:
    mean = Estimate(value=1.0, low=0.9, high=1.1)
    settings = {"change": {}, "kl": None, "drift": {}, "num_nan": 0, "num_black": 0} | other
    return PolicyResult(
        label=label,
        rewards={
            "pick": RewardResult(num_prompts=9, mean=mean, difference=training),
            "hps": RewardResult(num_prompts=9, mean=mean, difference=heldout),
        },
        categories={},
        diversity={},
        **settings,
    )


def results(*policies) -> Results:
    return Results(
        title="",
        baseline="base",
        rewards=["pick", "hps"],
        training_reward="pick",
        heldout_reward="hps",
        num_prompts=9,
        num_samples=9,
        confidence=0.95,
        num_bootstrap=100,
        policies=[policy("base"), *policies],
    )


def drift(value: float, shift: float, difference: Estimate) -> dict[str, DriftResult]:
    mean = Estimate(value=value)
    return {
        "saturation": DriftResult(
            mean=mean, difference=difference, shift=shift, base_range=(0.2, 0.4)
        )
    }


@pytest.mark.parametrize(
    ("training", "heldout", "levels"),
    [
        (UP, DOWN, ["alarm"]),
        (UP, UNCLEAR_DOWN, ["warning"]),
        (UP, UP, []),
        (UP, UNCLEAR_UP, []),
        (UNCLEAR_UP, DOWN, []),
        (DOWN, DOWN, []),
    ],
)
def test_alarm_when_training_rises_and_heldout_falls(training, heldout, levels):
    found = list(alarms(results(policy("it1", training, heldout))))
    assert [alarm.level for alarm in found] == levels


def test_a_fall_after_the_peak_is_seen_though_still_above_the_base():
    peak = policy("it1", UP, UP, change={"pick": UP, "hps": UP})
    after = policy("it2", UP, UP, change={"pick": UP, "hps": DOWN})
    (alarm,) = alarms(results(peak, after))
    assert (alarm.policy, alarm.level) == ("it2", "alarm")
    assert alarm.text.startswith("against it1 the training reward pick rises")


def test_without_roles_nothing_is_called_overoptimised():
    unnamed = replace(results(policy("it1", UP, DOWN)), training_reward=None, heldout_reward=None)
    assert list(alarms(unnamed)) == []


def test_drift_alarm_needs_both_size_and_certainty():
    def levels(shift, difference):
        moved = policy("it1", UP, UP, drift=drift(0.3 + shift * 0.2, shift, difference))
        return [alarm.text for alarm in alarms(results(moved))]

    assert levels(0.4, UP) == []
    assert levels(0.6, UNCLEAR_UP) == []
    assert levels(0.6, UP) == ["out of base's range: mean saturation 0.42 (range 0.2 to 0.4)"]
    assert len(levels(-0.6, DOWN)) == 1


def test_broken_images_are_alarmed():
    found = alarms(results(policy("it1", UP, UP, num_nan=2, num_black=1)))
    assert [alarm.text for alarm in found] == [
        "images with values that are not finite: 2",
        "black images: 1",
    ]


def test_largest_shift_is_by_size_not_sign():
    figures = drift(0.1, -0.9, DOWN) | {"contrast": drift(0.35, 0.3, UP)["saturation"]}
    assert largest_shift(policy("it1", drift=figures))[0] == "saturation"
    assert largest_shift(policy("it1")) is None


def test_verdict_speaks_of_the_last_policy():
    said = verdict(results(policy("it1", DOWN, DOWN), policy("it2", UP, UNCLEAR_DOWN)))
    assert said == (
        "Against base, it2 raises pick by 0.3, shows no clear change of hps (held out)."
    )
    assert verdict(results()) == "base: 9 prompts, not compared with another policy."
