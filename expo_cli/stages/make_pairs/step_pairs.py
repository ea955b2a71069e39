"""Pairs of step candidates: the best and the worst of each denoising step, as judged by the rollout."""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from expo_cli.config import MakePairsConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import files_sha256
from expo_cli.contracts.outputs import count_lines
from expo_cli.contracts.records import StepCandidates, StepPair
from expo_cli.contracts.rollouts import step_tensors_path, steps_path
from expo_cli.contracts.shards import part_path
from expo_cli.core.pairing import StepBestWorst, confidence
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.stages.make_pairs.scored_groups import PairSource, open_sources

# Settings that apply only to pairs of samples.
OTHERS = ("reward", "scores", "combine", "source", "min_margin", "label_agreement")


class StepPairs:
    """See `stages.make_pairs.run.PairMaker`."""

    def __init__(
        self,
        folders: Sequence[Path],
        pairs_folder: Path,
        pairing: StepBestWorst,
        config: MakePairsConfig,
    ) -> None:
        """Raises ExpoError when parts are missing or have no candidates, UsageError for flags that
        have no meaning here."""
        for field in fields(config):
            if field.name in OTHERS and getattr(config, field.name) != field.default:
                raise UsageError(
                    f"--{field.name.replace('_', '-')} contradicts --pairing {config.pairing}: the "
                    "rollout's --step-reward has judged the steps"
                )
        self.sources = open_sources(folders, (), pairs_folder)
        for source in self.sources:
            require_steps(source)
        self.pairing, self.limit = pairing, config.limit
        self.plan: dict[str, Any] = {}
        self.num_steps = self.num_pairs = 0
        self.confidences = 0.0
        self.dropped: Counter[str] = Counter()

    def inputs(self) -> dict[str, str]:
        digests = {}
        for source in self.sources:
            folder, parts = source.rollout.folder, range(source.rollout.num_parts)
            records = [
                path for n in parts for path in (part_path(folder, n), steps_path(folder, n))
            ]
            digests[source.relative] = files_sha256(folder, records)
        return digests

    def pairs(self, part_done: Callable[[], None]) -> Iterator[StepPair]:
        for part, step, flagged in itertools.islice(self.steps(part_done), self.limit):
            self.num_steps += 1
            if flagged:
                self.dropped["steps_to_nan_or_black_images"] += 1
            elif not self.pairing(step.scores):
                self.dropped["steps_below_min_confidence"] += 1
            else:
                pair = step_pair(step, part)
                self.num_pairs += 1
                self.confidences += pair.confidence
                yield pair
        if not self.num_pairs:
            raise ExpoError(
                f"no pairs left from {self.num_steps} steps: dropped {self.drops()}; draw more step "
                f"candidates or lower min_confidence ({self.pairing.min_confidence:g})"
            )

    def steps(self, part_done: Callable[[], None]) -> Iterator[tuple[str, StepCandidates, bool]]:
        """Yields every step, its `StepPair.part`, and whether it led to a NaN or black image.

        Raises ContractError for a step of a sample that its part does not have.
        """
        for source in self.sources:
            for part in range(source.rollout.num_parts):
                tensors = Path(source.relative, step_tensors_path(Path(), part)).as_posix()
                flagged = {
                    sample.sample_id: sample.checks.flagged
                    for sample in source.rollout.samples(part)
                }
                path = steps_path(source.rollout.folder, part)
                lines = count_lines(path)
                if lines != (drawn := source.rollout.num_steps(part) or lines):
                    raise ContractError(
                        f"{path}: {lines} steps, not the {drawn} of this part; remove it and run "
                        "`expo rollout` again"
                    )
                for number, step in jsonl.numbered(path, StepCandidates):
                    if step.sample_id not in flagged:
                        raise ContractError(
                            f"{path}:{number}: {step.sample_id} is not in "
                            f"{part_path(source.rollout.folder, part)}"
                        )
                    yield tensors, step, flagged[step.sample_id]
                part_done()

    def drops(self) -> str:
        """The drops as text."""
        reasons = [f"{count} {name.replace('_', ' ')}" for name, count in self.dropped.items()]
        return ", ".join(reasons) or "nothing"

    def counts(self) -> dict[str, Any]:
        return {
            "num_steps": self.num_steps,
            "num_pairs": self.num_pairs,
            "dropped": dict(self.dropped),
            "mean_confidence": self.confidences / self.num_pairs,
        }

    def summary(self) -> str:
        return (
            f"{self.num_pairs} pairs from {self.num_steps} steps, dropped {self.drops()}; mean "
            f"confidence {self.confidences / self.num_pairs:.3g}"
        )


def require_steps(source: PairSource) -> None:
    """Raises ExpoError when the rollout has no step candidates, or parts are missing."""
    rollout = source.rollout
    if rollout.run.plan.get("num_step_candidates") is None:
        raise ExpoError(
            f"{rollout.folder}: has no step candidates; draw it with `expo rollout "
            "--num-step-candidates N --step-reward SPEC`"
        )
    rollout.require()


def step_pair(step: StepCandidates, part: str) -> StepPair:
    best, worst = step.scores[step.winner], step.scores[step.loser]
    return StepPair(
        step_id=step.step_id,
        part=part,
        prompt_id=step.prompt_id,
        prompt=step.prompt,
        negative_prompt=step.negative_prompt,
        iteration=step.iteration,
        timestep=step.timestep,
        previous_timestep=step.previous_timestep,
        guidance_scale=step.guidance_scale,
        eta=step.eta,
        reward=step.reward,
        winner_score=best,
        loser_score=worst,
        confidence=confidence(best, worst),
        digest=step.digest,
    )
