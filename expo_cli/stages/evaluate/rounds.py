"""The ledger of `expo evaluate --pairs`: what each round of pairs consists of."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from torch import Tensor

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import inside
from expo_cli.contracts.kinds import SCORES
from expo_cli.contracts.records import Pair, Sample, SampleRef
from expo_cli.contracts.results import PolicyResult, RoundResult, SourceShare
from expo_cli.contracts.rollouts import open_rollout, scored_rewards, scores_by_sample
from expo_cli.contracts.tensors import TensorFiles
from expo_cli.core.ledger import mean_spread, relative_distance, shares
from expo_cli.errors import ContractError

# The fields of a sample that say who drew it and how.
SOURCE = ("agent", "scheduler", "num_inference_steps", "guidance_scale", "eta")
Place = tuple[Path, str]
"""A safetensors file and the sample_id in it."""


@dataclass
class Drawn:
    """All images of a round: samples by place, and scores by the pairs' reward where there are any."""

    samples: dict[Place, Sample] = field(default_factory=dict)
    scores: dict[Place, float] = field(default_factory=dict)

    def of_prompts(self, agent: str | None = None) -> dict[str, list[Place]]:
        """prompt_id -> the places of its images, of one agent or of all."""
        found = defaultdict(list)
        for place, sample in self.samples.items():
            if agent in (None, sample.agent):
                found[sample.prompt_id].append(place)
        return found


def read_round(path: Path, policy: PolicyResult, training_reward: str | None) -> RoundResult:
    """The row of a pair file, for the policy that was the first to learn from it.

    Raises ContractError when the file has no pairs, or pairs of images that no rollout drew.
    """
    pairs = list(jsonl.read(path, Pair))
    if not pairs:
        raise ContractError(f"{path}: no pairs")
    drawn = read_drawn(path.parent, pairs)
    winners, losers = (
        [sample_of(path, drawn, getattr(pair, role)) for pair in pairs]
        for role in ("winner", "loser")
    )
    gain = None if training_reward is None else policy.change.get(training_reward)
    return RoundResult(
        label=policy.label,
        num_pairs=len(pairs),
        num_images=len(drawn.samples),
        sources=list(source_shares(list(drawn.samples.values()), winners, losers)),
        margin=fmean(pair.margin for pair in pairs),
        spread=spread(pairs, drawn),
        spread_without_explore=spread(pairs, drawn, "main"),
        winner_distance=winner_distance(path.parent, pairs, winners, drawn),
        gain=gain,
        gain_per_1000_images=gain and 1000 * gain.value / len(drawn.samples),
    )


def read_drawn(folder: Path, pairs: Sequence[Pair]) -> Drawn:
    """All samples of the rollouts that the pairs, whose file is in `folder`, refer to."""
    refs = [
        ref
        for pair in pairs
        for ref in (pair.winner, pair.loser, pair.explore, pair.main)
        if ref is not None
    ]
    drawn = Drawn()
    for rollout_folder in sorted({inside(folder, ref.part).parent for ref in refs}):
        rollout, scored = open_rollout(rollout_folder), rollout_folder / SCORES
        reward = pairs[0].reward  # of several rewards combined there are no scores
        is_scored = reward in scored_rewards(scored)
        for part in range(rollout.num_parts):
            samples, latents = rollout.samples(part), rollout.latents_path(part)
            drawn.samples |= {(latents, each.sample_id): each for each in samples}
            if is_scored:
                scores = scores_by_sample(scored, part, reward, samples)
                drawn.scores |= {(latents, name): score for name, score in scores.items()}
    return drawn


def sample_of(path: Path, drawn: Drawn, ref: SampleRef) -> Sample:
    place = (inside(path.parent, ref.part), ref.sample_id)
    if place not in drawn.samples:
        raise ContractError(f"{path}: {ref.sample_id} is not a sample of {place[0]}")
    return drawn.samples[place]


def source_shares(
    images: Sequence[Sample], winners: Sequence[Sample], losers: Sequence[Sample]
) -> Iterator[SourceShare]:
    """One entry per agent and sampler setting, the main agent first."""
    drawn, won, lost = (
        shares([source(each) for each in some]) for some in (images, winners, losers)
    )
    for one in sorted(drawn, key=lambda one: (one[0] != "main", *one)):
        yield SourceShare(
            **dict(zip(SOURCE, one, strict=True)),
            images=drawn[one],
            winners=won.get(one, 0.0),
            losers=lost.get(one, 0.0),
        )


def source(sample: Sample) -> tuple:
    return tuple(getattr(sample, name) for name in SOURCE)


def spread(pairs: Sequence[Pair], drawn: Drawn, agent: str | None = None) -> float | None:
    places = drawn.of_prompts(agent)
    return mean_spread(
        {
            prompt_id: [drawn.scores[each] for each in places[prompt_id] if each in drawn.scores]
            for prompt_id in dict.fromkeys(pair.prompt_id for pair in pairs)
            if prompt_id in places
        }
    )


def winner_distance(
    folder: Path, pairs: Sequence[Pair], winners: Sequence[Sample], drawn: Drawn
) -> float | None:
    """The mean of `relative_distance` over the winners by the exploring agent."""
    files, found = TensorFiles(), []
    of_main: Mapping[str, list[Place]] = drawn.of_prompts("main")
    for pair, winner in zip(pairs, winners, strict=True):
        if winner.agent == "main" or pair.prompt_id not in of_main:
            continue
        mine: Tensor = files.get(inside(folder, pair.winner.part), winner.sample_id, winner.digest)
        others = [files.get(*place) for place in of_main[pair.prompt_id]]
        if (distance := relative_distance(mine, others)) is not None:
            found.append(distance)
    return fmean(found) if found else None
