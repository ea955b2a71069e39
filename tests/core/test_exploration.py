import pytest

from expo_cli.core.exploration import Policies, SamplingPlan
from expo_cli.errors import UsageError
from expo_cli.registry import EXPLORERS, build

POLICIES = Policies(current="now", previous="before", reference="first")
PLAN = SamplingPlan(scheduler="ddpm", num_inference_steps=50, guidance_scale=7.5)


@pytest.mark.parametrize(
    ("spec", "policy"),
    [
        ("same", "now"),
        ("previous", "before"),
        ("reference", "first"),
        ("extrapolate", "now"),
        ("sampling:guidance_scale=3", "now"),
        ("mixture:guidance_scale=1/3", "now"),
        ("checkpoint:path=other/weights", "other/weights"),
    ],
)
def test_whose_weights_explore(spec, policy):
    assert build(EXPLORERS, spec).policy(POLICIES) == policy


def test_sampling_changes_only_what_it_names():
    explorer = build(EXPLORERS, "sampling:scheduler=ddim,eta=1,num_inference_steps=20")
    assert explorer.plan(PLAN) == SamplingPlan(
        scheduler="ddim", num_inference_steps=20, guidance_scale=7.5, eta=1.0
    )


def test_a_mixture_has_one_row_of_settings_per_value():
    """A single value is that of every row, an unnamed setting stays the main agent's."""
    spec = "mixture:scheduler=ddpm/ddim,eta=0/0.5,guidance_scale=3"
    assert build(EXPLORERS, spec).plans(PLAN) == [
        SamplingPlan(scheduler="ddpm", num_inference_steps=50, guidance_scale=3.0, eta=0.0),
        SamplingPlan(scheduler="ddim", num_inference_steps=50, guidance_scale=3.0, eta=0.5),
    ]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("mixture", "needs an option with several values, as guidance_scale=1.5/3"),
        ("mixture:eta=1", "needs an option with several values"),
        ("mixture:eta=0/1,guidance_scale=1/2/3", "differ: 3 of guidance_scale, 2 of eta"),
        ("mixture:num_inference_steps=4/0", "num_inference_steps must be positive, got 0"),
        ("mixture:guidance=1/2", "did you mean 'guidance_scale'?"),
        ("extrapolate:w=0", "w must be finite and above 0"),
        ("extrapolate:w=-1", "w must be finite and above 0"),
        ("extrapolate:w=nan", "w must be finite and above 0"),
        ("extrapolate:w=inf", "w must be finite and above 0"),
    ],
)
def test_options_that_make_no_explorer_are_refused(spec, problem):
    with pytest.raises(UsageError) as raised:
        build(EXPLORERS, spec)
    assert problem in str(raised.value)


@pytest.mark.parametrize(
    "spec", ["same", "previous", "reference", "extrapolate", "checkpoint:path=x"]
)
def test_other_explorers_sample_like_the_main_agent(spec):
    assert build(EXPLORERS, spec).plans(PLAN) == [PLAN]


@pytest.mark.parametrize("spec", ["same", "reference", "mixture:eta=0/1", "checkpoint:path=x"])
def test_only_one_explorer_extrapolates(spec):
    assert build(EXPLORERS, spec).extrapolation(POLICIES) is None
    assert build(EXPLORERS, "extrapolate:w=2").extrapolation(POLICIES) == ("first", 2.0)


@pytest.mark.parametrize("spec", ["previous", "reference"])
def test_an_explorer_says_which_weights_it_misses(spec):
    with pytest.raises(UsageError, match=f"--explorer {spec} needs"):
        build(EXPLORERS, spec).policy(Policies(current="now"))


def test_an_extrapolation_needs_a_reference():
    with pytest.raises(UsageError, match="--explorer extrapolate needs --ref"):
        build(EXPLORERS, "extrapolate").extrapolation(Policies(current="now"))
