import math

import pytest
import torch

from expo_cli.core.objectives import Errors, PairErrors, denoising_error
from expo_cli.registry import OBJECTIVES, build


def errors(policy: list[float], reference: list[float]) -> Errors:
    return Errors(torch.tensor(policy), torch.tensor(reference))


def loss(spec: str, pair_errors: PairErrors) -> torch.Tensor:
    return sum(build(OBJECTIVES, spec).terms(pair_errors).values())


def random_errors(batch: int, seed: int) -> PairErrors:
    generator = torch.Generator().manual_seed(seed)

    def role() -> Errors:
        return Errors(*torch.rand(2, batch, generator=generator).mul(0.002))

    return PairErrors(
        winner=role(),
        loser=role(),
        explore=role(),
        main=role(),
        explored=torch.ones(batch),
        explore_gain=torch.randn(batch, generator=generator),
    )


def test_denoising_error_is_the_mean_over_channels_and_pixels():
    prediction = torch.zeros(2, 1, 1, 2)
    target = torch.tensor([[[[1.0, 3.0]]], [[[0.0, 2.0]]]])
    # (1 + 9) / 2 and (0 + 4) / 2
    assert denoising_error(prediction, target).tolist() == [5.0, 2.0]


def test_diffusion_dpo_by_hand():
    # s_w = 0.10 - 0.12 = -0.02, s_l = 0.15 - 0.14 = 0.01; k = 100 / 2 = 50;
    # z = 50 * (0.01 + 0.02) = 1.5, so the loss is log(1 + exp(-1.5)) = 0.2014
    pair = PairErrors(winner=errors([0.10], [0.12]), loser=errors([0.15], [0.14]))
    assert loss("dpo:beta=100", pair).item() == pytest.approx(0.201413, abs=1e-5)


def test_paper_beta_5000_multiplies_a_difference_of_mean_errors_by_2500():
    # z = 2500 * 1e-3 = 2.5
    pair = PairErrors(winner=errors([0.1], [0.1]), loser=errors([0.101], [0.1]))
    assert loss("dpo:beta=5000", pair).item() == pytest.approx(math.log1p(math.exp(-2.5)), abs=1e-4)


def test_expo_by_hand():
    # preference: z = 0, log 2. exploration: s_ex - s_main = -0.03 - 0.01 = -0.04; k_ex = 50;
    # 0.1 * sigmoid(-2) = 0.1 * 0.119203
    pair = PairErrors(
        winner=errors([0.2], [0.2]),
        loser=errors([0.3], [0.3]),
        explore=errors([0.10], [0.13]),
        main=errors([0.11], [0.10]),
        explored=torch.ones(1),
        explore_gain=torch.zeros(1),
    )
    expected = math.log(2) + 0.1 * 0.119203
    assert loss("expo:beta=100,alpha=0.1", pair).item() == pytest.approx(expected, abs=1e-5)


def test_the_exploration_term_has_its_own_beta():
    pair = PairErrors(
        winner=errors([0.2], [0.2]),
        loser=errors([0.2], [0.2]),
        explore=errors([0.10], [0.13]),
        main=errors([0.11], [0.10]),
        explored=torch.ones(1),
        explore_gain=torch.zeros(1),
    )
    # k_ex = 25, so 1 * sigmoid(-1) = 0.268941
    value = loss("expo:beta=100,alpha=1,explore_beta=50", pair).item()
    assert value == pytest.approx(math.log(2) + 0.268941, abs=1e-5)


def test_pairs_without_explore_samples_have_no_second_term():
    pair = random_errors(4, seed=0)
    explored = torch.tensor([1.0, 0.0, 1.0, 0.0])
    terms = build(OBJECTIVES, "expo:alpha=0.5").terms(
        PairErrors(pair.winner, pair.loser, pair.explore, pair.main, explored, pair.explore_gain)
    )
    assert (terms["exploration"] > 0).tolist() == [True, False, True, False]


def test_gating_keeps_the_second_term_only_where_the_explore_sample_scores_higher():
    pair = random_errors(16, seed=1)
    terms = build(OBJECTIVES, "expo:alpha=0.5,gated=true").terms(pair)
    assert torch.equal(terms["exploration"] > 0, pair.explore_gain > 0)


def test_expo_without_alpha_is_diffusion_dpo():
    pair = random_errors(8, seed=2)
    assert build(OBJECTIVES, "expo:alpha=0").roles == ("winner", "loser")
    assert torch.equal(loss("expo:alpha=0,beta=700", pair), loss("dpo:beta=700", pair))


def salesforce_diffusion_dpo(model_losses, ref_losses, beta):
    """The loss as the Diffusion-DPO paper's section 4 and appendix describe its computation:
    winners first, losers second, in one batch; mean squared errors over channels and pixels."""
    half = len(model_losses) // 2
    model_difference = model_losses[:half] - model_losses[half:]
    reference_difference = ref_losses[:half] - ref_losses[half:]
    inside = -0.5 * beta * (model_difference - reference_difference)
    return torch.stack([-torch.log(1 / (1 + torch.exp(-z))) for z in inside.double()])


@pytest.mark.parametrize("beta", [10, 2000, 5000])
def test_dpo_equals_a_straightforward_implementation(beta):
    pair = random_errors(32, seed=3)
    expected = salesforce_diffusion_dpo(
        torch.cat([pair.winner.policy, pair.loser.policy]),
        torch.cat([pair.winner.reference, pair.loser.reference]),
        beta,
    )
    torch.testing.assert_close(loss(f"dpo:beta={beta}", pair).double(), expected, atol=1e-5, rtol=0)


def test_expo_equals_a_straightforward_implementation():
    pair = random_errors(32, seed=4)
    for row, value in enumerate(loss("expo:beta=3000,alpha=0.2", pair).tolist()):
        s = {
            name: (role.policy[row] - role.reference[row]).item()
            for name, role in vars(pair).items()
            if isinstance(role, Errors)
        }
        first = -math.log(1 / (1 + math.exp(1500 * (s["winner"] - s["loser"]))))
        second = 0.2 / (1 + math.exp(-1500 * (s["explore"] - s["main"])))
        assert value == pytest.approx(first + second, abs=1e-5)


@pytest.mark.parametrize("spec", ["dpo", "expo:alpha=0"])
def test_a_policy_equal_to_its_reference_loses_log_2(spec):
    same = errors([0.3, 0.1], [0.3, 0.1])
    pair = PairErrors(winner=same, loser=errors([0.2, 0.7], [0.2, 0.7]))
    assert loss(spec, pair).tolist() == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize("spec", ["dpo", "expo:alpha=0"])
def test_swapping_winner_and_loser_reverses_the_sign_of_the_logit(spec):
    pair = random_errors(8, seed=5)
    swapped = PairErrors(winner=pair.loser, loser=pair.winner)
    # sigmoid(z) + sigmoid(-z) = 1
    total = torch.exp(-loss(spec, pair)) + torch.exp(-loss(spec, swapped))
    torch.testing.assert_close(total, torch.ones(8))


def test_sft_is_the_winners_error_alone():
    assert loss("sft", PairErrors(winner=errors([0.25], [9.0]))).item() == 0.25
