"""The line that says whether a training learns, on figures by hand."""

import pytest

from expo_cli.core.learning import Learning

# 80 pairs: an implicit accuracy of 0.5 has a standard error of 0.5 / sqrt(80) = 0.056.
GOOD = {
    "step": 30,
    "learning_rate": 1e-5,
    "weight_change": 1e-3,
    "winner_error_change": -0.002,
    "reference_winner_error": 0.1,
    "loser_error_change": 0.001,
    "reference_loser_error": 0.1,
    "implicit_accuracy": 0.65,
    "saturation": 0.05,
}


def said(favoured="winner", other="loser", num_items=80, without=(), **changes) -> str:
    metrics = {name: value for name, value in (GOOD | changes).items() if name not in without}
    return str(Learning(metrics, favoured, other, num_items))


def test_a_training_that_learns():
    assert said() == (
        "learns (weights moved by 1.0e-03 of their norm, winner error -2.00%, loser error +1.00%, "
        "implicit accuracy 0.65 of 80, 5% saturated)"
    )


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        # Both errors within 1e-4 of the reference's, whatever the accuracy of such differences.
        ({"winner_error_change": -9e-6, "loser_error_change": 9e-6}, "hardly moves; raise"),
        ({"winner_error_change": 0.011}, "the winner error grows"),
        ({"winner_error_change": 0.009}, "learns, but the winner error rises too"),
        ({"winner_error_change": 0.0009}, "learns ("),
        ({"saturation": 0.51}, "most items teach nothing more"),
        # 2 standard errors: 0.112.
        ({"implicit_accuracy": 0.61}, "no better than chance yet"),
        ({"implicit_accuracy": 0.62}, "learns ("),
        ({"implicit_accuracy": 0.39}, "no better than chance yet"),
        ({"implicit_accuracy": 0.38}, "prefers what it should not"),
    ],
)
def test_each_verdict_at_its_threshold(changes, start):
    assert said(**changes).startswith(start)


def test_an_accuracy_is_surer_of_more_items():
    assert said(implicit_accuracy=0.55).startswith("no better than chance")
    assert said(implicit_accuracy=0.55, num_items=800).startswith("learns")


def test_what_an_objective_does_not_measure_is_not_judged():
    pairs_alone = [name for name in GOOD if "error" in name or name == "saturation"]
    spo = said(without=pairs_alone, clipped=0.6)
    assert spo.startswith("most items teach nothing more")
    sft = said(without=[*pairs_alone, "implicit_accuracy"])
    assert (
        sft
        == "moves; whether for the better, expo evaluate tells (weights moved by 1.0e-03 of their norm)"
    )
    still = said(without=[*pairs_alone, "implicit_accuracy"], weight_change=9e-7)
    assert still.startswith("hardly moves")


def test_images_have_the_names_of_their_labels():
    images = {"desirable_error_change": 0.02, "reference_desirable_error": 0.1}
    pairs = [name for name in GOOD if "error" in name]
    line = said("desirable", "undesirable", without=pairs, **images)
    assert line.startswith("the desirable error grows")
