import math
from dataclasses import replace

import pytest

from expo_cli.contracts.ids import fraction
from expo_cli.core.combination import ZScoreSum
from expo_cli.core.label_noise import LabelNoise, mean_agreement, temperature
from expo_cli.core.pair_rule import PairRule, Tally, pair_groups
from expo_cli.core.pairing import BestWorst, Candidate, Group, TwoAtRandom

RULE = PairRule(
    pairing=BestWorst(),
    combination=ZScoreSum(),
    weights={"pick": 1.0},
    min_margin=0,
    source="offline",
    seed=0,
)
# 2000 prompts of four images with scores in [0, 1).
GROUPS = [
    Group(
        f"p{n}",
        "a cat",
        0,
        {
            f"p{n}-{i}": Candidate(f"p{n}-{i}", "main", "x.safetensors", (fraction(n, i),))
            for i in range(4)
        },
    )
    for n in range(2000)
]


def made(groups=GROUPS, agreement=None, seed=0, pairing=None):
    rule = replace(RULE, seed=seed, pairing=pairing or RULE.pairing)
    clean = list(pair_groups(groups, rule, Tally()))
    if agreement is None:
        return clean
    noise = LabelNoise.of([pair.margin for pair in clean], agreement, seed)
    return list(pair_groups(groups, replace(rule, noise=noise), Tally()))


def flipped(pairs) -> set[str]:
    return {pair.pair_id for pair in pairs if pair.flipped}


def test_tau_of_two_pairs_by_hand():
    # At tau = 1 / ln 2 the labels of margins 1 and 3 agree with probability 2 / 3 and 8 / 9.
    assert temperature([1, 3], 7 / 9) == pytest.approx(1 / math.log(2))
    # sigmoid(2 / tau) = 0.7 for both.
    assert temperature([2, 2], 0.7) == pytest.approx(2 / math.log(7 / 3))


@pytest.mark.parametrize("agreement", [0.50001, 0.6, 0.9, 0.99999])
@pytest.mark.parametrize("unit", [1e-200, 1, 1e200])
def test_tau_solves_the_equation_whatever_the_unit_of_the_scores(agreement, unit):
    margins = [unit * margin for margin in (0.001, 1, 2, 50)]
    assert mean_agreement(margins, temperature(margins, agreement)) == pytest.approx(agreement)


@pytest.mark.parametrize("agreement", [0.5, 0.7, 0.95])
def test_as_many_labels_are_flipped_as_stated_and_more_of_near_ties(agreement):
    pairs = made(agreement=agreement)
    share = len(flipped(pairs)) / len(pairs)
    # 4 standard deviations of a binomial share, which is no narrower than that of unequal coins.
    assert share == pytest.approx(
        1 - agreement, abs=4 * math.sqrt(agreement * (1 - agreement) / 2000)
    )
    by_margin = sorted(pairs, key=lambda pair: abs(pair.margin))
    near, far = len(flipped(by_margin[:1000])), len(flipped(by_margin[1000:]))
    assert near > far or agreement == 0.5


def test_a_coin_depends_on_seed_and_pair_alone():
    noise = LabelNoise(0.7, tau=0.5, seed=0)
    coins = {pair.pair_id: noise.flips(pair.pair_id, pair.margin) for pair in made()}
    # Fair coins have the same threshold whatever other pairs there are.
    halves = made(GROUPS[1000:], 0.5) + made(GROUPS[:1000], 0.5)
    assert flipped(halves) == flipped(made(agreement=0.5))
    backwards = {pair.pair_id: noise.flips(pair.pair_id, pair.margin) for pair in made()[::-1]}
    assert backwards == coins
    assert flipped(made(agreement=0.5, seed=1)) != flipped(made(agreement=0.5))


def test_a_flipped_pair_tells_the_truth_about_its_scores():
    for clean, noisy in zip(made(), made(agreement=0.7), strict=True):
        if not noisy.flipped:
            assert noisy == clean
            continue
        assert noisy == replace(
            clean,
            winner=clean.loser,
            loser=clean.winner,
            winner_score=clean.loser_score,
            loser_score=clean.winner_score,
            margin=-clean.margin,
            flipped=True,
        )


def test_agreement_one_flips_none_and_zero_all():
    assert made(agreement=1) == made()
    assert len(flipped(made(agreement=0))) == 2000


def test_two_at_random_are_chosen_by_seed_whatever_their_scores():
    def chosen(groups, seed=0):
        pairs = made(groups, seed=seed, pairing=TwoAtRandom())
        assert all(pair.margin > 0 for pair in pairs)
        return [{pair.winner.sample_id, pair.loser.sample_id} for pair in pairs]

    def negated(group):
        turned = {
            name: replace(one, scores=(-one.scores[0],)) for name, one in group.candidates.items()
        }
        return replace(group, candidates=turned)

    of_one_seed = chosen(GROUPS)
    assert all(len(pair) == 2 for pair in of_one_seed)
    assert chosen([negated(group) for group in GROUPS]) == of_one_seed
    assert chosen(GROUPS, seed=1) != of_one_seed
    # Of four images six pairs are possible: each is the choice in a sixth of 2000 prompts.
    counts = [
        sum({f"p{n}-{i}", f"p{n}-{j}"} == pair for n, pair in enumerate(of_one_seed))
        for i in range(4)
        for j in range(i)
    ]
    assert all(
        count == pytest.approx(2000 / 6, abs=4 * math.sqrt(2000 * 5 / 36)) for count in counts
    )
