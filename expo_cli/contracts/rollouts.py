"""Reads a rollout folder: its plan, its parts, and their samples and latents."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expo_cli.contracts import jsonl
from expo_cli.contracts.kinds import SCORES, RolloutParts, ScoreFolder, part_counts, rollout_parts
from expo_cli.contracts.provenance import RUN, Count, PartCount, Run, planned
from expo_cli.contracts.records import Sample, Score, StepCandidates
from expo_cli.contracts.shards import part_name, part_path
from expo_cli.errors import ContractError


@dataclass(frozen=True)
class Rollout:
    """A rollout folder, as opened by `open_rollout`."""

    folder: Path
    run: Run

    @property
    def num_parts(self) -> int:
        return planned(self.run, self.folder, "num_parts", PartCount)

    def require(self, parts: Sequence[int] | None = None) -> None:
        """Raises ExpoError that names the missing ones among `parts` (default: all)."""
        RolloutParts(self.folder, self.run).require(parts)

    def samples(self, part: int) -> list[Sample]:
        """The samples of a part. Raises ContractError when their number is not the planned one."""
        return [sample for _, sample in self.numbered_samples(part)]

    def numbered_samples(self, part: int) -> list[tuple[int, Sample]]:
        """The samples of a part with their line numbers; errors as `samples`."""
        path = part_path(self.folder, part)
        lines = list(jsonl.numbered(path, Sample))
        # Rollouts made by other programs need not state how many samples a part has.
        drawn = self.num_samples(part) if "num_samples" in self.run.plan else len(lines)
        found = len({sample.sample_id for _, sample in lines})
        if not found == len(lines) == drawn:
            raise ContractError(
                f"{path}: {len(lines)} samples, {found} of them distinct, not the {drawn} of this "
                "part; remove it and run `expo rollout` again"
            )
        return lines

    def num_samples(self, part: int) -> int:
        """Number of samples in one part."""
        return min(
            self.samples_per_part, self.planned("num_samples") - part * self.samples_per_part
        )

    @property
    def samples_per_part(self) -> int:
        """Number of samples in each part but possibly the last."""
        return self.planned("part_size") * self.planned("num_images_per_prompt")

    def planned(self, name: str) -> int:
        return planned(self.run, self.folder, name, Count)

    def latents_path(self, part: int) -> Path:
        """The safetensors file that holds the part's final latents, one tensor per sample_id."""
        return part_path(self.folder, part, ".safetensors")

    def steps(self, part: int) -> Iterator[StepCandidates]:
        """The part's steps with candidates, in a rollout with --num-step-candidates."""
        return jsonl.read(steps_path(self.folder, part), StepCandidates)

    def num_steps(self, part: int) -> int | None:
        """Number of steps in a part, None if expo did not draw it."""
        return part_counts(self.folder, part).get("steps")


def steps_path(folder: Path, part: int) -> Path:
    """The JSONL file of one part's steps."""
    return part_path(folder, part, ".steps.jsonl")


def step_tensors_path(folder: Path, part: int) -> Path:
    """The safetensors file with the latents of the part's steps."""
    return part_path(folder, part, ".steps.safetensors")


def step_tensor(step_id: str, name: Literal["x_t", "winner", "loser"]) -> str:
    """The name of one such tensor, [channels, height, width]."""
    return f"{step_id}.{name}"


def open_rollout(folder: Path) -> Rollout:
    """Raises ExpoError when there is no such folder, ContractError when it is not a rollout."""
    _, run = rollout_parts(folder)
    return Rollout(folder, run)


def score_path(folder: Path, part: int, reward: str) -> Path:
    """The JSONL file of one part's scores by one reward."""
    return part_path(folder, part, f".{reward}.jsonl")


def embeddings_path(folder: Path, part: int, reward: str) -> Path:
    """The safetensors file of image embeddings [dim] by sample_id, for rewards that have them."""
    return part_path(folder, part, f".{reward}.safetensors")


def reward_run_name(reward: str) -> str:
    """The run.json of one label in a score folder: the reward's spec, weights and settings."""
    return f"{reward}.{RUN}"


def scored_rewards(folder: Path) -> list[str]:
    """Labels of the rewards in a score folder."""
    return ScoreFolder(folder).scored()


def scores_by_sample(
    folder: Path, part: int, reward: str, samples: Iterable[Sample]
) -> dict[str, float]:
    """Scores by sample_id of a part that consists of `samples`; some may have no score.

    Raises ContractError, with the line, for a score of another reward, sample or latents, and for a
    second score of a sample.
    """
    path = score_path(folder, part, reward)
    prompt_ids, digests = {}, {}
    for sample in samples:
        prompt_ids[sample.sample_id] = sample.prompt_id
        digests[sample.sample_id] = sample.digest
    scores: dict[str, float] = {}
    for number, score in jsonl.numbered(path, Score):
        place = f"{path}:{number}"
        if score.reward != reward:
            raise ContractError(f"{place}: reward is {score.reward!r}, not {reward!r}")
        if prompt_ids.get(score.sample_id) != score.prompt_id:
            raise ContractError(
                f"{place}: the rollout's {part_name(part)} has no {score.sample_id} of prompt "
                f"{score.prompt_id}; these are scores of another rollout"
            )
        if score.sample_id in scores:
            raise ContractError(f"{place}: {score.sample_id} is scored twice")
        digest = digests[score.sample_id]
        if None not in (digest, score.digest) and digest != score.digest:
            raise ContractError(
                f"{place}: scores latents {score.digest}, but {score.sample_id} of the rollout is now "
                f"{digest}: it was drawn again; run `expo score` with --overwrite"
            )
        scores[score.sample_id] = score.score
    return scores


def scored_samples(rollout: Rollout, reward: str) -> Iterator[tuple[Sample, float | None]]:
    """All samples of a rollout, with their scores in the folder beside them, None without one.

    Errors as `Rollout.samples` and `scores_by_sample`.
    """
    for part in range(rollout.num_parts):
        samples = rollout.samples(part)
        scores = scores_by_sample(rollout.folder / SCORES, part, reward, samples)
        for sample in samples:
            yield sample, scores.get(sample.sample_id)
