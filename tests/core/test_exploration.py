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
        ("sampling:guidance_scale=3", "now"),
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


@pytest.mark.parametrize("spec", ["same", "previous", "reference", "checkpoint:path=x"])
def test_other_explorers_sample_like_the_main_agent(spec):
    assert build(EXPLORERS, spec).plan(PLAN) == PLAN


@pytest.mark.parametrize("spec", ["previous", "reference"])
def test_an_explorer_says_which_weights_it_misses(spec):
    with pytest.raises(UsageError, match=f"--explorer {spec} needs"):
        build(EXPLORERS, spec).policy(Policies(current="now"))
