"""Pairs of samples: of each prompt, over all rollouts, by their scores."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from expo_cli.config import MakePairsConfig
from expo_cli.contracts.files import files_sha256
from expo_cli.contracts.records import Pair
from expo_cli.contracts.rollouts import score_path, scored_rewards
from expo_cli.contracts.shards import part_path
from expo_cli.core.label_noise import LabelNoise
from expo_cli.core.pair_rule import PairRule, Tally, pair_groups
from expo_cli.core.pairing import Pairing
from expo_cli.errors import ExpoError, UsageError
from expo_cli.registry import COMBINATIONS, build, nearest
from expo_cli.stages.make_pairs.scored_groups import (
    PairSource,
    check_same_judges,
    open_sources,
    read_groups,
)


class SamplePairs:
    """See `stages.make_pairs.run.PairMaker`."""

    def __init__(
        self,
        folders: Sequence[Path],
        pairs_folder: Path,
        pairing: Pairing,
        config: MakePairsConfig,
    ) -> None:
        """Raises ExpoError when parts are missing, UsageError for flags that do not fit the scores,
        ContractError when a label is used for different rewards."""
        self.sources = open_sources(folders, config.scores, pairs_folder)
        self.limit, self.agreement = config.limit, config.label_agreement
        self.weights = choose_rewards(config.reward, self.sources)
        labels = list(self.weights)
        for source in self.sources:
            source.require_complete(labels)
        check_same_judges(self.sources, labels)
        self.rule = PairRule(
            pairing=pairing,
            combination=build(COMBINATIONS, config.combine),
            weights=self.weights,
            min_margin=config.min_margin,
            source=config.source,
            seed=config.seed,
        )
        self.tally = Tally()
        self.plan = {"weights": self.weights}

    def inputs(self) -> dict[str, str]:
        return input_digests(self.sources, list(self.weights))

    def pairs(self, part_done: Callable[[], None]) -> Iterator[Pair]:
        if self.agreement is not None:
            # The noise depends on the margins of all pairs, so these are made twice.
            margins = (pair.margin for pair in self.made(Tally(), lambda: None))
            noise = LabelNoise.of(margins, self.agreement, self.rule.seed)
            self.rule = replace(self.rule, noise=noise)
        tally = self.tally
        yield from self.made(tally, part_done)
        if not tally.num_pairs:
            raise ExpoError(
                f"no pairs left from {tally.num_prompts} prompts and {tally.num_samples} samples: "
                f"dropped {tally.drops()}; draw more samples per prompt, lower --min-margin "
                f"({self.rule.min_margin:g}) or choose another --combine"
            )

    def made(self, tally: Tally, part_done: Callable[[], None]) -> Iterator[Pair]:
        groups = read_groups(self.sources, list(self.weights), part_done)
        return pair_groups(itertools.islice(groups, self.limit), self.rule, tally)

    def counts(self) -> dict[str, Any]:
        counts = self.tally.counts()
        if noise := self.rule.noise:
            counts |= {
                "tau": noise.tau,
                "flipped_share": self.tally.num_flipped / counts["num_pairs"],
            }
        return counts

    def summary(self) -> str:
        tally, counts = self.tally, self.counts()
        return (
            f"{tally.num_pairs} pairs from {tally.num_prompts} prompts and {tally.num_samples} samples, "
            f"dropped {tally.drops()}; mean margin {counts['mean_margin']:.4g}; explore drew "
            f"{counts['explore_share_of_samples']:.0%} of the samples, "
            f"{counts['explore_share_of_winners']:.0%} of the winners, "
            f"{counts['explore_share_of_losers']:.0%} of the losers{self.noise_summary()}"
        )

    def noise_summary(self) -> str:
        if not (noise := self.rule.noise):
            return ""
        tau = "the same chance for all" if noise.tau is None else f"tau {noise.tau:.4g}"
        return (
            f"; label agreement {noise.agreement:g} by {tau}, "
            f"{self.tally.num_flipped / self.tally.num_pairs:.1%} flipped"
        )


def choose_rewards(flags: Sequence[str], sources: Sequence[PairSource]) -> dict[str, float]:
    """Label -> weight of the rewards to pair by, from `LABEL[=WEIGHT]` flags or the only reward.

    Raises UsageError for an unknown label, a bad weight, or several rewards without a flag.
    """
    known = sorted({label for source in sources for label in scored_rewards(source.scores)})
    if not known:
        raise ExpoError(
            f"{sources[0].scores}: no scores; "
            f"run `expo score {sources[0].rollout.folder} --reward NAME` first"
        )
    if not flags and len(known) > 1:
        raise UsageError(
            f"there are scores by several rewards; choose with --reward: {', '.join(known)}"
        )
    weights: dict[str, float] = {}
    for flag in flags or known:
        label, equals, weight = flag.partition("=")
        if label not in known:
            raise UsageError(f"--reward {flag}: no scores by {label!r}; {nearest(label, known)}")
        if label in weights:
            raise UsageError(f"--reward {label} is given twice")
        weights[label] = parse_weight(flag, weight) if equals else 1.0
    if len(weights) == 1 and list(weights.values()) != [1.0]:
        raise UsageError("a weight needs more than one --reward")
    return weights


def parse_weight(flag: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(f"--reward {flag}: the weight must be a positive number")
    return weight


def input_digests(sources: Sequence[PairSource], labels: Sequence[str]) -> dict[str, str]:
    """One sha256 per rollout for its records, and one for its scores by each reward."""
    digests = {}
    for source in sources:
        parts = range(source.rollout.num_parts)
        records = [part_path(source.rollout.folder, part) for part in parts]
        digests[source.relative] = files_sha256(source.rollout.folder, records)
        for label in labels:
            scores = [score_path(source.scores, part, label) for part in parts]
            digests[f"{source.relative}: {label}"] = files_sha256(source.scores, scores)
    return digests
