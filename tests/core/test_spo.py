import math

import pytest
import torch

from expo_cli.core.spo import SPO, LogDensities, StepDensities


def steps(winner: list[float], loser: list[float], reference: float = -1.0) -> StepDensities:
    """Step pairs with the given log ratios to the reference, whose log density is the same for
    all. The policy's log densities require gradients."""
    return StepDensities(
        *(
            LogDensities(
                (torch.tensor(log_ratios, dtype=torch.float64) + reference).requires_grad_(),
                torch.full((len(log_ratios),), reference, dtype=torch.float64),
            )
            for log_ratios in (winner, loser)
        )
    )


def loss(densities: StepDensities, **options) -> torch.Tensor:
    return sum(SPO(**options).terms(densities).values())


def test_spo_by_hand():
    # beta (0.05 - -0.05) = 1, so the loss is log(1 + exp(-1)) = 0.313262
    assert loss(steps([0.05], [-0.05])).item() == pytest.approx(0.313262, abs=1e-6)


def test_clipped_spo_by_hand():
    # Ratios 1.5 and 0.5 become 1.1 and 0.9: 10 (log 1.1 - log 0.9) = 10 log(11 / 9) = 2.006707
    found = loss(steps([math.log(1.5)], [math.log(0.5)])).item()
    assert found == pytest.approx(math.log1p((9 / 11) ** 10), abs=1e-9)


def plain_spo(winner: float, loser: float, beta: float, clip: float) -> float:
    """The loss of one pair of log ratios: clipped, then compared as DPO compares."""
    ratios = [min(max(math.exp(each), 1 - clip), 1 + clip) for each in (winner, loser)]
    return -math.log(1 / (1 + math.exp(-beta * (math.log(ratios[0]) - math.log(ratios[1])))))


@pytest.mark.parametrize(("beta", "clip"), [(10, 0.1), (1, 0.5), (100, 0.01)])
def test_spo_equals_a_straightforward_implementation(beta, clip):
    generator = torch.Generator().manual_seed(0)
    winners, losers = torch.randn(2, 64, generator=generator).mul(2 * clip).tolist()
    expected = [plain_spo(*pair, beta, clip) for pair in zip(winners, losers, strict=True)]
    found = loss(steps(winners, losers), beta=beta, clip=clip)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_a_ratio_beyond_the_clip_has_no_gradient():
    # exp(0.09) = 1.094 and exp(-0.10) = 0.905 are within 0.9 .. 1.1; exp(0.10) = 1.105 is not.
    densities = steps([0.09, 0.10, -0.10, -0.11], [0.0, 0.0, 0.0, 0.0])
    loss(densities).sum().backward()
    assert (densities.winner.policy.grad < 0).tolist() == [True, False, True, False]
    assert densities.winner.policy.grad[[1, 3]].tolist() == [0, 0]
    assert (densities.loser.policy.grad > 0).all()
    assert SPO().clipped(densities.winner).tolist() == [0, 1, 0, 1]


def test_a_wider_clip_gives_the_gradient_back():
    densities = steps([0.3], [-0.3])
    loss(densities, clip=0.5).backward()
    # d/d(log p_w) of -log sigmoid(10 * 0.6) is -10 sigmoid(-6)
    expected = 10 / (1 + math.exp(6))
    assert densities.winner.policy.grad.item() == pytest.approx(-expected)
    assert densities.loser.policy.grad.item() == pytest.approx(expected)


def test_swapping_winner_and_loser_reverses_the_sign_of_the_logit():
    densities = steps([0.02, 0.2, -0.05], [-0.03, 0.01, -0.3])
    swapped = StepDensities(densities.loser, densities.winner)
    # sigmoid(z) + sigmoid(-z) = 1
    total = torch.exp(-loss(densities)) + torch.exp(-loss(swapped))
    torch.testing.assert_close(total, torch.ones_like(total))


def test_equal_ratios_lose_log_2():
    assert loss(steps([0.0, 0.07, 3.0], [0.0, 0.07, 2.0])).tolist() == pytest.approx(
        [math.log(2)] * 3
    )


def test_the_reference_has_no_say_but_through_the_ratio():
    one, other = steps([0.05], [-0.02], reference=-1.0), steps([0.05], [-0.02], reference=2.5)
    torch.testing.assert_close(loss(one), loss(other))
