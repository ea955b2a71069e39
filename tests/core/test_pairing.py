import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expo_cli.core.combination import ZScoreSum
from expo_cli.core.pair_rule import PairRule, Tally, pair_groups
from expo_cli.core.pairing import (
    AllPairs,
    BestWorst,
    Candidate,
    Group,
    StepBestWorst,
    TopBottom,
    confidence,
    explore_and_main,
    shuffled,
)
from expo_cli.registry import PAIRINGS, build

RULE = PairRule(
    pairing=BestWorst(),
    combination=ZScoreSum(),
    weights={"pick": 1.0},
    min_margin=0,
    source="online",
    seed=0,
)

scores_of_group = st.lists(st.integers(-5, 5), min_size=0, max_size=8)


def group(scores: list[float], prompt_id: str = "p", explore: int | None = None) -> Group:
    """The first `explore` samples (half of them by default) are the explore agent's."""
    explore = len(scores) // 2 if explore is None else explore
    candidates = [
        Candidate(f"{prompt_id}-{i}", "explore" if i < explore else "main", "x.safetensors", (s,))
        for i, s in enumerate(scores)
    ]
    return Group(prompt_id, "a cat", 1, {c.sample_id: c for c in candidates})


def pairs(groups: list[Group], **changes):
    tally = Tally()
    return list(pair_groups(groups, replace(RULE, **changes), tally)), tally


def ends(pair) -> tuple[str, str]:
    return pair.winner.sample_id, pair.loser.sample_id


def test_all_pairs_by_hand():
    assert AllPairs()([0.1, 0.9, 0.5]) == [(1, 2), (1, 0), (2, 0)]


def test_best_worst_by_hand():
    [pair], tally = pairs([group([0.3, 0.9, 0.1, 0.5])])
    assert ends(pair) == ("p-1", "p-2")
    assert (pair.winner_score, pair.loser_score) == (0.9, 0.1)
    assert pair.margin == pytest.approx(0.8)
    # Samples 0 and 1 are the explore agent's, 2 and 3 the main agent's.
    counts = tally.counts()
    assert counts["explore_share_of_winners"] == 1
    assert counts["explore_share_of_losers"] == 0
    assert counts["explore_share_of_samples"] == 0.5
    assert counts["mean_margin"] == pytest.approx(0.8)


def test_top_bottom_by_hand():
    made, _ = pairs([group([1, 2, 3, 4, 5])], pairing=TopBottom(k=3))
    assert [ends(pair) for pair in made] == [("p-4", "p-0"), ("p-3", "p-1")]


def test_what_is_dropped_is_counted():
    groups = [group([1, 1], "tie"), group([1], "one"), group([], "none"), group([1, 1.1], "near")]
    groups[2].num_flagged = 4
    made, tally = pairs([*groups, group([0, 1], "far")], min_margin=0.5)
    assert [pair.prompt_id for pair in made] == ["far"]
    assert tally.dropped == {
        "ties": 1,
        "prompts_of_fewer_than_2_samples": 2,
        "samples_nan_or_black": 4,
        "pairs_below_min_margin": 1,
    }
    assert (tally.num_prompts, tally.num_samples) == (5, 2 + 1 + 4 + 2 + 2)


@pytest.mark.parametrize("name", PAIRINGS)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=8))
def test_the_winner_is_never_below_the_loser(name, scores):
    chosen = build(PAIRINGS, name)(scores)
    assert all(scores[winner] >= scores[loser] for winner, loser in chosen)
    if chosen and name != "random":  # the best of all is paired with the worst
        assert max(scores) - min(scores) == max(
            scores[winner] - scores[loser] for winner, loser in chosen
        )


def test_step_best_worst_by_hand():
    # softmax of (1, 0.5, 0): e / (e + 1) - 1 / (e + 1) = tanh(1 / 2) = 0.4621 for best and worst.
    scores = [0.5, 1.0, 0.0]
    assert confidence(1.0, 0.0) == pytest.approx((math.e - 1) / (math.e + 1))
    assert StepBestWorst(min_confidence=0.462)(scores) == [(1, 2)]
    assert StepBestWorst(min_confidence=0.463)(scores) == []


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(0, 0.99))
def test_step_best_worst_keeps_what_the_softmax_is_sure_of(scores, min_confidence):
    best, worst = max(scores), min(scores)
    # Softmax over the two: shifted by the best, so that nothing overflows.
    likelier = 1 / (1 + math.exp(worst - best))
    sure = 2 * likelier - 1
    kept = StepBestWorst(min_confidence=min_confidence)(scores)
    if abs(sure - min_confidence) > 1e-9:
        assert bool(kept) == (sure > min_confidence)


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=8), st.integers(1, 4))
def test_top_bottom_uses_no_sample_in_two_pairs(scores, k):
    made, _ = pairs([group(scores)], pairing=TopBottom(k=k))
    used = [sample_id for pair in made for sample_id in ends(pair)]
    assert len(used) == len(set(used))


@given(scores_of_group, st.randoms())
def test_the_order_of_the_samples_does_not_matter(scores, random):
    one = group(scores)
    items = list(one.candidates.items())
    random.shuffle(items)
    assert pairs([one])[0] == pairs([replace(one, candidates=dict(items))])[0]


@given(scores_of_group)
def test_turning_the_scores_round_swaps_winner_and_loser(scores):
    there, _ = pairs([group(scores)])
    back, _ = pairs([group([-score for score in scores])])
    assert [ends(pair) for pair in there] == [ends(pair)[::-1] for pair in back]


@given(st.lists(scores_of_group, max_size=5), st.integers(0, 5), st.integers(0, 5))
def test_a_larger_min_margin_keeps_a_subset_and_a_prompt_has_at_most_one_pair(lists, low, more):
    groups = [group(scores, letter) for letter, scores in zip("abcde", lists, strict=False)]
    kept, tally = pairs(groups, min_margin=low)
    fewer, _ = pairs(groups, min_margin=low + more)
    assert {pair.pair_id for pair in fewer} <= {pair.pair_id for pair in kept}
    assert all(pair.margin >= low and pair.margin > 0 for pair in kept)
    assert len({pair.prompt_id for pair in kept}) == len(kept)
    dropped = tally.dropped
    assert tally.num_prompts == len(kept) + sum(dropped.values())


def test_ties_favour_no_agent():
    # One best score is shared by an explore and a main sample, in 400 prompts.
    made, tally = pairs([group([1, 0, 1, 0], f"p{i}") for i in range(400)])
    assert len(made) == 400
    assert 160 < tally.num_explore_winners < 240  # 4 standard deviations of a fair coin


def test_references_of_the_second_term_do_not_depend_on_scores():
    candidates = shuffled(group([0, 1, 2, 3, 4, 5, 6, 7]).candidates.values(), seed=0)
    better = [replace(c, scores=(-c.scores[0],)) for c in candidates]
    drawn = [explore_and_main(candidates, 0, f"pair{i}") for i in range(200)]
    assert drawn == [explore_and_main(better, 0, f"pair{i}") for i in range(200)]
    agents = {(candidates[e].agent, candidates[m].agent) for e, m in drawn}
    assert agents == {("explore", "main")}
    # Four of each agent: all 16 combinations come up.
    assert len(set(drawn)) == 16
    assert drawn != [explore_and_main(candidates, 1, f"pair{i}") for i in range(200)]


@pytest.mark.parametrize("explore", [0, 2])
def test_no_references_when_an_agent_is_missing(explore):
    [pair], _ = pairs([group([0, 1], explore=explore)])
    assert pair.explore is None
    assert pair.main is None


def test_references_carry_the_score_paired_by():
    scores = {"p-0": 0.1, "p-1": 0.7, "p-2": 0.4, "p-3": 0.2}
    [pair], _ = pairs([group(list(scores.values()))])
    for reference in (pair.winner, pair.loser, pair.explore, pair.main):
        assert reference.score == scores[reference.sample_id]


def test_pair_ids_differ_by_iteration():
    groups = [replace(group([0, 1]), iteration=iteration) for iteration in (1, 2, 3)]
    made, _ = pairs(groups)
    assert [pair.iteration for pair in made] == [1, 2, 3]
    for one, other in itertools.combinations(made, 2):
        assert one.pair_id != other.pair_id
