import math
from dataclasses import replace

import pytest
import torch

from expo_cli.core.objectives import (
    EXPO,
    DiffusionDPO,
    DiffusionKTO,
    Errors,
    ImageErrors,
    PairErrors,
    denoising_error,
)
from expo_cli.core.spo import SPO, LogDensities, StepDensities
from expo_cli.errors import UsageError
from expo_cli.registry import OBJECTIVES, build

ROLES = ("winner", "loser", "explore", "main")


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


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        # k_ex = 100 / 2 = 50; s_loser = 0.01, s_explore = -0.03, s_main = 0.01
        ("pair", 0.119203),  # sigmoid(50 (-0.03 - 0.01)) = sigmoid(-2)
        ("main", 0.377541),  # sigmoid(-50 * 0.01) = sigmoid(-0.5)
        ("rejected", 0.377541),
        ("reference", 1.5),  # -50 * -0.03
    ],
)
def test_the_forms_of_the_second_term_by_hand(term, expected):
    pair = PairErrors(
        winner=errors([0.2], [0.2]),
        loser=errors([0.31], [0.30]),
        explore=errors([0.10], [0.13]),
        main=errors([0.11], [0.10]),
        explored=torch.ones(1),
    )
    found = build(OBJECTIVES, f"expo:beta=100,alpha=1,term={term}").terms(pair)["exploration"]
    assert found.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("term", "pulled", "pushed"),
    [
        ("pair", ["explore"], ["main"]),
        ("main", [], ["main"]),
        ("rejected", [], ["loser"]),
        ("reference", [], ["explore"]),
    ],
)
def test_which_samples_the_second_term_moves(term, pulled, pushed):
    """A pulled sample's error falls, a pushed one's rises; at a policy equal to its reference the
    gradient is `alpha_share` of the first term's in the winner's error."""
    objective = build(OBJECTIVES, f"expo:beta=300,alpha=0.2,term={term},explore_beta=200")
    equal = {role: torch.full((1,), 0.1, requires_grad=True) for role in ROLES}
    pair = PairErrors(
        **{role: Errors(error, torch.full((1,), 0.1)) for role, error in equal.items()},
        explored=torch.ones(1),
    )
    first, second = (objective.terms(pair)[name] for name in ("preference", "exploration"))
    (scale,) = torch.autograd.grad(first.sum(), equal["winner"])
    slopes = torch.autograd.grad(second.sum(), list(equal.values()), allow_unused=True)
    found = {role: slope for role, slope in zip(equal, slopes, strict=True) if slope is not None}
    expected = dict.fromkeys(pulled, 1.0) | dict.fromkeys(pushed, -1.0)
    assert {role: slope.item() / scale.item() for role, slope in found.items()} == {
        role: pytest.approx(sign * objective.alpha_share) for role, sign in expected.items()
    }
    assert set(objective.roles) == {"winner", "loser", *pulled, *pushed}


def test_the_second_term_is_a_mean_over_the_pairs_that_have_it():
    """Whatever their share of a micro-batch, given their share of all visits."""
    pair = random_errors(4, seed=3)
    objective = build(OBJECTIVES, "expo:alpha=0.5")
    full = objective.terms(pair)["exploration"]
    some = replace(pair, explored=torch.tensor([1.0, 0.0, 1.0, 0.0]), explored_share=0.5)
    found = objective.terms(some)["exploration"].mean()
    assert found.item() == pytest.approx(full[[0, 2]].mean().item())


def test_gated_pairs_count_as_0_in_the_mean():
    pair = replace(random_errors(16, seed=1), explored_share=0.25)
    gated = build(OBJECTIVES, "expo:alpha=0.5,gated=true").terms(pair)["exploration"]
    plain = build(OBJECTIVES, "expo:alpha=0.5").terms(pair)["exploration"]
    assert torch.equal(gated, torch.where(pair.explore_gain > 0, plain, 0.0))


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


def test_sft_gives_the_loser_no_gradient():
    evidence, preferred, other = at_the_reference("pairs", seed=0)
    loss_of("sft", evidence).sum().backward()
    assert preferred.grad.tolist() == [1.0] * 8
    assert other.grad is None


# s_w = 0.10 - 0.12 = -0.02, s_l = 0.15 - 0.14 = 0.01; with k = 50 the logit z is 1.5.
CLEAR = PairErrors(winner=errors([0.10], [0.12]), loser=errors([0.15], [0.14]))
# The same winner, s_l = 0.13 - 0.14 = -0.01: z is 0.5.
SLIGHT = PairErrors(winner=errors([0.10], [0.12]), loser=errors([0.13], [0.14]))


@pytest.mark.parametrize(
    ("options", "pair", "expected"),
    [
        ("loss=hinge", SLIGHT, 0.5),  # 1 - 0.5
        ("loss=hinge", CLEAR, 0.0),  # 1.5 is beyond the margin of 1
        ("loss=ipo", SLIGHT, 0.0),  # 0.5 is where the logit is drawn to
        ("loss=ipo", CLEAR, 1.0),  # (1.5 - 0.5)^2
        # 0.9 log(1 + exp(-1.5)) + 0.1 log(1 + exp(1.5)) = 0.9 * 0.201413 + 0.1 * 1.701413
        ("label_smoothing=0.1", CLEAR, 0.351413),
    ],
)
def test_variants_of_dpo_by_hand(options, pair, expected):
    assert loss(f"dpo:beta=100,{options}", pair).item() == pytest.approx(expected, abs=1e-5)


def slic(h: float, k: float) -> float:
    """max(0, delta - log p(winner) + log p(loser)), here with k h as the difference and delta 1."""
    return max(0.0, 1 - k * h)


def ipo(h: float, k: float) -> float:
    """Azar et al., arXiv 2310.12036, eq. 17: (h - 1 / (2 tau))^2, here times tau^2."""
    return k**2 * (h - 1 / (2 * k)) ** 2


def conservative_dpo(h: float, k: float, smoothing: float = 0.2) -> float:
    """The cross-entropy of the label, right with probability 1 - smoothing."""
    likely = 1 / (1 + math.exp(-k * h))
    return -(1 - smoothing) * math.log(likely) - smoothing * math.log(1 - likely)


@pytest.mark.parametrize("beta", [10, 2000, 5000])
@pytest.mark.parametrize(
    ("options", "plain"),
    [("loss=hinge", slic), ("loss=ipo", ipo), ("label_smoothing=0.2", conservative_dpo)],
)
def test_variants_of_dpo_equal_a_straightforward_implementation(options, plain, beta):
    pair = random_errors(32, seed=6)
    for row, value in enumerate(loss(f"dpo:beta={beta},{options}", pair).tolist()):
        winner, loser = (
            role.policy[row].item() - role.reference[row].item()
            for role in (pair.winner, pair.loser)
        )
        assert value == pytest.approx(plain(loser - winner, beta / 2), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("options", ["loss=hinge", "loss=ipo", "label_smoothing=0.2"])
def test_expo_without_alpha_is_that_variant_of_dpo(options):
    pair = random_errors(8, seed=2)
    assert torch.equal(loss(f"expo:alpha=0,{options}", pair), loss(f"dpo:{options}", pair))


@pytest.mark.parametrize(
    ("options", "times"), [("", 1.0), ("label_smoothing=0.2", 0.6), ("loss=ipo", 2.0)]
)
def test_a_swap_of_winner_and_loser_costs_as_much_as_the_logit_says(options, times):
    # f(-z) - f(z) is z for the sigmoid, (1 - 2 e) z with smoothing e, and 2 z for IPO.
    pair = random_errors(8, seed=5)
    swapped = PairErrors(winner=pair.loser, loser=pair.winner)
    z = 100 * (pair.loser.change - pair.winner.change)
    spec = f"dpo:beta=200,{options}"
    torch.testing.assert_close(
        loss(spec, swapped) - loss(spec, pair), times * z, atol=1e-5, rtol=1e-4
    )


def images(g: list[float], desirable: list[bool], mismatched: list[float] | None = None):
    """Images with the given g = m_ref - m_policy."""
    return ImageErrors(
        errors([0.5 - each for each in g], [0.5] * len(g)),
        torch.tensor(desirable),
        None if mismatched is None else errors([0.5 - m for m in mismatched], [0.5] * len(g)),
    )


def test_the_zero_point_of_kto_by_hand():
    kto = DiffusionKTO()
    assert kto.zero_point(images([0.3, 0.1], [True, False])).item() == pytest.approx(0.2)
    # A mean below 0 estimates a KL that is at least 0.
    assert kto.zero_point(images([-0.3, 0.1], [True, False])).item() == 0


def test_the_zero_point_may_come_from_mismatched_prompts():
    kto = DiffusionKTO(reference_point="mismatched")
    evidence = images([0.3, 0.1], [True, False], mismatched=[0.1, 0.0])
    assert kto.zero_point(evidence).item() == pytest.approx(0.05)
    # Its sign is kept, unlike that of the images' own mean.
    evidence = images([0.3, 0.1], [True, False], mismatched=[-0.1, 0.0])
    assert kto.zero_point(evidence).item() == pytest.approx(-0.05)


def test_the_zero_point_is_that_of_all_processes():
    evidence = replace(images([0.3, 0.1], [True, False]), mean_gain=torch.tensor(0.4))
    assert DiffusionKTO().zero_point(evidence).item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("utility", "expected"),
    [
        ("kahneman-tversky", [0.268941, 0.268941]),  # 1 - sigmoid(1)
        ("loss-averse", [1.313262, 1.313262]),  # 1 + log(1 + exp(-1))
        ("risk-seeking", [-0.313262, -0.313262]),  # 1 - log(1 + exp(1))
        ("exponential", [0.989950, 2.990050]),  # 1 - (exp(0.01) - 1) and 1 - (-exp(-0.01) - 1)
    ],
)
def test_kto_by_hand(utility, expected):
    # z0 = 0.2, so z = 10 (0.3 - 0.2) = 1 where desirable, and -10 (0.1 - 0.2) = 1 where not.
    evidence = images([0.3, 0.1], [True, False])
    found = loss_of(f"kto:beta=10,utility={utility}", evidence)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)


def diffusion_kto(g: list[float], desirable: list[bool], beta: float, utility: str) -> list[float]:
    """1 - U(w beta (g - Q)), w = +-1 (Li et al., arXiv 2404.04465, eq. 8 and section 4)."""
    reference_point = max(0.0, sum(g) / len(g))
    losses = []
    for each, good in zip(g, desirable, strict=True):
        v = (1 if good else -1) * beta * (each - reference_point)
        likely = 1 / (1 + math.exp(-v))
        u = {
            "kahneman-tversky": likely,
            "loss-averse": math.log(likely),
            "risk-seeking": -math.log(1 / (1 + math.exp(v))),
            "exponential": math.exp(v / 100) - 1 if good else -math.exp(-v / 100) - 1,
        }[utility]
        losses.append(1 - u)
    return losses


def test_the_exponential_utility_at_the_reference():
    """2 - e^0 for desirable images and 2 + e^0 for others, as in the authors' code."""
    kto = DiffusionKTO(utility="exponential")
    assert kto.terms(images([0.0, 0.0], [True, False]))["kto"].tolist() == [1, 3]


UTILITIES = ["kahneman-tversky", "loss-averse", "risk-seeking", "exponential"]


@pytest.mark.parametrize("beta", [10, 1000, 5000])
@pytest.mark.parametrize("utility", UTILITIES)
def test_kto_equals_a_straightforward_implementation(utility, beta):
    evidence, _, _ = at_the_reference("images", seed=7)
    drawn = Errors(*torch.rand(2, 8, generator=torch.Generator().manual_seed(7)).mul(0.002))
    g = [r - p for p, r in zip(drawn.policy.tolist(), drawn.reference.tolist(), strict=True)]
    expected = diffusion_kto(g, evidence.desirable.tolist(), beta, utility)
    found = loss_of(f"kto:beta={beta},utility={utility}", replace(evidence, image=drawn))
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_turning_kto_labels_round_reverses_the_logit():
    g, desirable = [0.3, 0.1, -0.2, 0.15], [True, False, True, False]
    turned = [not each for each in desirable]
    total = loss_of("kto:beta=9", images(g, desirable)) + loss_of("kto:beta=9", images(g, turned))
    # 1 - sigmoid(z) + 1 - sigmoid(-z) = 1
    torch.testing.assert_close(total, torch.ones(4))


# Every objective by its name, and the other formulas that its options choose.
SPECS = [
    *OBJECTIVES,
    "dpo:loss=hinge",
    "dpo:loss=ipo",
    "dpo:label_smoothing=0.3",
    *(f"kto:utility={utility}" for utility in UTILITIES[1:]),
    "kto:reference_point=mismatched",
]


def loss_of(spec: str, evidence) -> torch.Tensor:
    return sum(build(OBJECTIVES, spec).terms(evidence).values())


def at_the_reference(kind: str, seed: int):
    """Evidence of 8 items whose policy equals its reference, what the policy thinks of those that
    are preferred (winners, desirable images) and of the others: errors, or log densities."""
    generator = torch.Generator().manual_seed(seed)

    def values() -> torch.Tensor:
        return torch.rand(8, generator=generator).mul(0.002).requires_grad_()

    if kind == "images":
        policy, desirable = values(), torch.arange(8) % 3 > 0
        image = Errors(policy, policy.detach())
        return ImageErrors(image, desirable, mismatched=image), policy, policy
    if kind == "steps":
        winner, loser = values(), values()
        densities = [LogDensities(policy, policy.detach()) for policy in (winner, loser)]
        return StepDensities(*densities), winner, loser
    winner, loser = values(), values()
    pair = replace(
        random_errors(8, seed),
        winner=Errors(winner, winner.detach()),
        loser=Errors(loser, loser.detach()),
    )
    return pair, winner, loser


@pytest.mark.parametrize("spec", SPECS)
def test_every_objective_has_a_finite_loss_for_each_item(spec):
    objective = build(OBJECTIVES, spec)
    evidence, _, _ = at_the_reference(objective.learns_from, seed=8)
    for term in objective.terms(evidence).values():
        assert term.shape == (8,)
        assert term.isfinite().all()


@pytest.mark.parametrize("spec", SPECS)
def test_every_objective_starts_towards_what_is_preferred(spec):
    kind = build(OBJECTIVES, spec).learns_from
    evidence, preferred, other = at_the_reference(kind, seed=9)
    loss_of(spec, evidence).sum().backward()
    if kind == "images":
        assert torch.equal(preferred.grad > 0, evidence.desirable)
        assert (preferred.grad != 0).all()
        return
    lower = 1 if kind == "pairs" else -1  # errors are to fall, densities to rise
    assert (lower * preferred.grad > 0).all()
    assert other.grad is None or (lower * other.grad < 0).all()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("dpo", math.log(2)),
        ("dpo:label_smoothing=0.3", math.log(2)),
        ("dpo:loss=hinge", 1),
        ("dpo:loss=ipo", 1 / 4),
        ("kto", 1 / 2),
        ("kto:reference_point=mismatched", 1 / 2),
        ("kto:utility=loss-averse", 1 + math.log(2)),
        ("kto:utility=risk-seeking", 1 - math.log(2)),
        ("spo", math.log(2)),
    ],
)
def test_the_loss_of_a_policy_equal_to_its_reference(spec, expected):
    evidence, _, _ = at_the_reference(build(OBJECTIVES, spec).learns_from, seed=10)
    assert loss_of(spec, evidence).tolist() == pytest.approx([expected] * 8)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("dpo", 1 / 2),
        ("dpo:label_smoothing=0.3", 1 / 2 - 0.3),
        ("dpo:loss=hinge", 1),
        ("dpo:loss=ipo", 1),  # 2 * 0.5
        ("kto", 1 / 4),
        ("kto:utility=loss-averse", 1 / 2),
        ("kto:utility=risk-seeking", 1 / 2),
        ("kto:utility=exponential", 1 / 100),
    ],
)
def test_the_weight_of_a_policy_equal_to_its_reference(spec, expected):
    objective = build(OBJECTIVES, spec)
    evidence, _, _ = at_the_reference(objective.learns_from, seed=10)
    assert objective.weight(evidence).tolist() == pytest.approx([expected] * 8)


@pytest.mark.parametrize(
    "spec",
    ["dpo", "dpo:loss=hinge", "dpo:loss=ipo", "dpo:label_smoothing=0.3", "expo:alpha=0"],
)
def test_k_times_the_weight_is_the_gradient_of_the_winners_error(spec):
    objective = build(OBJECTIVES, spec)
    pair = random_errors(16, seed=11)
    pair.winner.policy.requires_grad_()
    loss_of(spec, pair).sum().backward()
    expected = objective.k * objective.weight(pair)
    torch.testing.assert_close(pair.winner.policy.grad.abs(), expected)


@pytest.mark.parametrize("utility", UTILITIES)
@pytest.mark.parametrize("reference_point", ["batch", "mismatched"])
def test_k_times_the_weight_is_the_gradient_of_an_images_error(utility, reference_point):
    """So the zero point, in which every image has a share, has no gradient."""
    objective = DiffusionKTO(utility=utility, reference_point=reference_point)
    drawn = random_errors(16, seed=12)
    drawn.winner.policy.requires_grad_()
    drawn.loser.policy.requires_grad_()
    evidence = ImageErrors(drawn.winner, torch.arange(16) % 4 > 0, mismatched=drawn.loser)
    sum(objective.terms(evidence).values()).sum().backward()
    expected = objective.k * objective.weight(evidence)
    torch.testing.assert_close(drawn.winner.policy.grad.abs(), expected)
    assert drawn.loser.policy.grad is None


@pytest.mark.parametrize(
    ("objective", "options", "problem"),
    [
        (DiffusionDPO, {"beta": 0.0}, "beta must be positive, got 0.0"),
        (DiffusionDPO, {"beta": math.nan}, "beta must be positive, got nan"),
        (DiffusionDPO, {"label_smoothing": 0.5}, "at least 0 and below 0.5, got 0.5"),
        (DiffusionDPO, {"label_smoothing": -0.1}, "at least 0 and below 0.5, got -0.1"),
        (DiffusionDPO, {"label_smoothing": math.nan}, "at least 0 and below 0.5, got nan"),
        (
            DiffusionDPO,
            {"label_smoothing": 0.1, "loss": "ipo"},
            "label_smoothing belongs to loss=sigmoid, not ipo",
        ),
        (EXPO, {"label_smoothing": 0.1, "loss": "hinge"}, "not hinge"),
        (EXPO, {"alpha": -0.1}, "alpha must not be negative, got -0.1"),
        (EXPO, {"gated": True, "term": "main"}, "gated belongs to term=pair, not main"),
        (EXPO, {"explore_beta": 0.0}, "explore_beta must be positive, got 0.0"),
        (DiffusionKTO, {"beta": -1.0}, "beta must be positive, got -1.0"),
        (DiffusionKTO, {"desirable_fraction": 0.0}, "between 0 and 1, got 0.0"),
        (DiffusionKTO, {"desirable_fraction": 1.0}, "between 0 and 1, got 1.0"),
        (SPO, {"beta": math.inf}, "beta must be positive, got inf"),
        (SPO, {"clip": 0.0}, "clip must lie between 0 and 1, got 0.0"),
        (SPO, {"clip": 1.0}, "clip must lie between 0 and 1, got 1.0"),
    ],
)
def test_options_without_a_meaning_are_refused(objective, options, problem):
    with pytest.raises(ValueError, match=problem):
        objective(**options)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("dpo:loss=hinged", "Invalid enum value 'hinged'"),
        ("kto:utility=risk", "Invalid enum value 'risk'"),
        ("kto:reference_point=all", "Invalid enum value 'all'"),
        ("kto:label_smoothing=0.1", "kto has no option 'label_smoothing'"),
        ("spo:clip=2", "clip must lie between 0 and 1"),
    ],
)
def test_specs_without_a_meaning_are_refused(spec, problem):
    with pytest.raises(UsageError, match=problem):
        build(OBJECTIVES, spec)
