"""Which samples of a prompt form a pair, and which enter Eq. 7's second term with it."""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from expo_cli.contracts.ids import digest
from expo_cli.contracts.records import Agent


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sample that may enter a pair. It holds only what pairing needs, as there may be millions.

    `part` and `digest` are the SampleRef's; `scores` is [num_rewards].
    """

    sample_id: str
    agent: Agent
    part: str
    scores: tuple[float, ...]
    digest: str | None = None


@dataclass(slots=True)
class Group:
    """The samples of one prompt by sample_id; another `num_flagged` are NaN or black."""

    prompt_id: str
    prompt: str
    iteration: int
    candidates: dict[str, Candidate] = field(default_factory=dict)
    num_flagged: int = 0


class Pairing(ABC):
    """Chooses the pairs among a prompt's samples or a denoising step's candidates; your own pairing
    inherits from this class."""

    pairs: ClassVar[str] = "samples"
    """What it pairs: samples or steps."""

    @abstractmethod
    def __call__(self, scores: Sequence[float]) -> list[tuple[int, int]]:
        """(winner, loser) of each pair as indices into `scores` [num_samples >= 2].

        Samples come in an order that depends on --seed and their ids alone, see `shuffled`. Ties go
        to the earlier sample. Pairs without a margin may be included; the caller drops them.
        """


@dataclass(frozen=True)
class TopBottom(Pairing):
    """The k best with the k worst of a prompt: best with worst, second best with second worst, ..."""

    k: int = 2

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be positive, got {self.k}")

    def __call__(self, scores: Sequence[float]) -> list[tuple[int, int]]:
        worst_first = sorted(range(len(scores)), key=lambda i: scores[i])
        best_first = sorted(range(len(scores)), key=lambda i: -scores[i])
        return list(zip(best_first, worst_first, strict=True))[: min(self.k, len(scores) // 2)]


@dataclass(frozen=True)
class BestWorst(Pairing):
    """The best against the worst: one pair per prompt (Algorithm 1 of the paper)."""

    def __call__(self, scores: Sequence[float]) -> list[tuple[int, int]]:
        indices = range(len(scores))
        return [(max(indices, key=scores.__getitem__), min(indices, key=scores.__getitem__))]


@dataclass(frozen=True)
class TwoAtRandom(Pairing):
    """Two random samples of a prompt, whatever their scores, as in Pick-a-Pic (Kirstain et al., arXiv
    2305.01569): one pair per prompt."""

    def __call__(self, scores: Sequence[float]) -> list[tuple[int, int]]:
        return [(0, 1) if scores[0] >= scores[1] else (1, 0)]


@dataclass(frozen=True)
class AllPairs(Pairing):
    """All pairs of a prompt's samples, n (n - 1) / 2, as in a human ranking."""

    def __call__(self, scores: Sequence[float]) -> list[tuple[int, int]]:
        best_first = sorted(range(len(scores)), key=lambda i: -scores[i])
        return list(itertools.combinations(best_first, 2))


def confidence(best: float, worst: float) -> float:
    """p_best - p_worst of softmax([best, worst])."""
    return math.tanh((best - worst) / 2)


@dataclass(frozen=True)
class StepBestWorst(BestWorst):
    """The best against the worst candidate of a denoising step, if the reward is confident enough
    (SPO, Liang et al., arXiv 2406.04314): at most one pair per step."""

    min_confidence: float = 0.3

    pairs = "steps"

    def __post_init__(self) -> None:
        if not 0 <= self.min_confidence < 1:
            raise ValueError(f"min_confidence must be in [0, 1), got {self.min_confidence}")

    def __call__(self, scores: Sequence[float]) -> list[tuple[int, int]]:
        return [
            (winner, loser)
            for winner, loser in super().__call__(scores)
            if confidence(scores[winner], scores[loser]) > self.min_confidence
        ]


def shuffled(candidates: Iterable[Candidate], seed: int) -> list[Candidate]:
    """The candidates in an order that depends on `seed` and their ids alone.

    Ties go to the first candidate, so this order breaks them without favouring an agent.
    """
    return sorted(candidates, key=lambda c: (digest("tie", seed, c.sample_id), c.sample_id))


def explore_and_main(
    candidates: Sequence[Candidate], seed: int, pair_id: str
) -> tuple[int, int] | None:
    """Indices of one explore and one main sample, chosen by hash whatever their scores.

    `candidates` are in the order of `shuffled`. None when one agent has no sample.
    """
    explore = [i for i, candidate in enumerate(candidates) if candidate.agent == "explore"]
    main = [i for i, candidate in enumerate(candidates) if candidate.agent == "main"]
    if not explore or not main:
        return None
    return (
        explore[digest("explore", seed, pair_id) % len(explore)],
        main[digest("main", seed, pair_id) % len(main)],
    )
