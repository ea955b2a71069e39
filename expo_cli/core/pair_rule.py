"""Turns groups into pairs: which are dropped and why, and statistics of the result."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import UNSET

from expo_cli.contracts.ids import pair_id
from expo_cli.contracts.records import Pair, SampleRef
from expo_cli.core.combination import Combination, dominates
from expo_cli.core.label_noise import LabelNoise
from expo_cli.core.pairing import Candidate, Group, Pairing, explore_and_main, shuffled


@dataclass(frozen=True)
class PairRule:
    """The rule by which a group gives pairs.

    `weights` has reward labels as keys, in the order of `Candidate.scores`. `min_margin` is in
    units of the (combined) score; `noise` flips what is left.
    """

    pairing: Pairing
    combination: Combination
    weights: dict[str, float]
    min_margin: float
    source: Literal["online", "offline"]
    seed: int
    noise: LabelNoise | None = None

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """The score of each candidate: that of a single reward, or the combined one."""
        columns = list(zip(*(candidate.scores for candidate in candidates), strict=True))
        if len(columns) == 1:
            return list(columns[0])
        return self.combination(columns, list(self.weights.values()))

    def objection(self, winner: Candidate, loser: Candidate, margin: float) -> str | None:
        """The reason why the two form no pair, as the name of its count; None if they do."""
        if margin == 0:
            return "ties"
        if margin < self.min_margin:
            return "pairs_below_min_margin"
        if self.combination.unanimous and not dominates(winner.scores, loser.scores):
            return "pairs_not_unanimous"
        return None


@dataclass
class Tally:
    """Counts of the input, the output, and the drops by reason."""

    num_prompts: int = 0
    num_samples: int = 0
    num_explore_samples: int = 0
    num_pairs: int = 0
    num_flipped: int = 0
    num_explore_winners: int = 0
    num_explore_losers: int = 0
    winner_scores: float = 0.0
    loser_scores: float = 0.0
    dropped: Counter[str] = field(default_factory=Counter)

    def add_group(self, group: Group) -> None:
        agents = [candidate.agent for candidate in group.candidates.values()]
        self.num_prompts += 1
        self.num_samples += len(agents) + group.num_flagged
        self.num_explore_samples += agents.count("explore")
        if group.num_flagged:
            self.dropped["samples_nan_or_black"] += group.num_flagged
        if len(agents) < 2:
            self.dropped["prompts_of_fewer_than_2_samples"] += 1

    def add_pair(self, pair: Pair, winner: Candidate, loser: Candidate) -> None:
        self.num_pairs += 1
        self.num_flipped += bool(pair.flipped)
        self.num_explore_winners += winner.agent == "explore"
        self.num_explore_losers += loser.agent == "explore"
        self.winner_scores += pair.winner_score
        self.loser_scores += pair.loser_score

    def drops(self) -> str:
        """The drops as text."""
        reasons = [f"{count} {name.replace('_', ' ')}" for name, count in self.dropped.items()]
        return ", ".join(reasons) or "nothing"

    def counts(self) -> dict[str, Any]:
        """The counts and statistics of the pairs; needs at least one pair."""
        usable = self.num_samples - self.dropped["samples_nan_or_black"]
        return {
            "num_prompts": self.num_prompts,
            "num_samples": self.num_samples,
            "num_pairs": self.num_pairs,
            "dropped": dict(self.dropped),
            "mean_margin": (self.winner_scores - self.loser_scores) / self.num_pairs,
            "mean_winner_score": self.winner_scores / self.num_pairs,
            "mean_loser_score": self.loser_scores / self.num_pairs,
            "explore_share_of_samples": self.num_explore_samples / usable,
            "explore_share_of_winners": self.num_explore_winners / self.num_pairs,
            "explore_share_of_losers": self.num_explore_losers / self.num_pairs,
        }


def pair_groups(groups: Iterable[Group], rule: PairRule, tally: Tally) -> Iterator[Pair]:
    """Yields the pairs of all groups in order, and counts them in `tally`."""
    for group in groups:
        tally.add_group(group)
        if len(group.candidates) >= 2:
            yield from pair_group(group, rule, tally)


def pair_group(group: Group, rule: PairRule, tally: Tally) -> Iterator[Pair]:
    candidates = shuffled(group.candidates.values(), rule.seed)
    scores = rule.scores(candidates)
    references = [
        SampleRef(
            sample_id=candidate.sample_id,
            part=candidate.part,
            score=score,
            digest=candidate.digest,
        )
        for candidate, score in zip(candidates, scores, strict=True)
    ]
    for winner, loser in rule.pairing(scores):
        margin = scores[winner] - scores[loser]
        objection = rule.objection(candidates[winner], candidates[loser], margin)
        if objection:
            tally.dropped[objection] += 1
            continue
        identity = pair_id(
            candidates[winner].sample_id, candidates[loser].sample_id, group.iteration
        )
        drawn = explore_and_main(candidates, rule.seed, identity)
        flipped = rule.noise is not None and rule.noise.flips(identity, margin)
        if flipped:
            winner, loser = loser, winner
        pair = Pair(
            pair_id=identity,
            prompt_id=group.prompt_id,
            prompt=group.prompt,
            winner=references[winner],
            loser=references[loser],
            winner_score=scores[winner],
            loser_score=scores[loser],
            margin=scores[winner] - scores[loser],
            reward="+".join(rule.weights),
            source=rule.source,
            iteration=group.iteration,
            explore=references[drawn[0]] if drawn else None,
            main=references[drawn[1]] if drawn else None,
            flipped=flipped or UNSET,
        )
        tally.add_pair(pair, candidates[winner], candidates[loser])
        yield pair
