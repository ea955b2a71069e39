"""Reading a rollout folder: its plan, its parts, the samples and latents in them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expo_cli.contracts import jsonl
from expo_cli.contracts.kinds import RolloutParts, ScoreFolder, part_counts, rollout_parts
from expo_cli.contracts.parts import part_name, part_path
from expo_cli.contracts.provenance import RUN, Count, PartCount, Run, planned
from expo_cli.contracts.records import Sample, Score, StepCandidates
from expo_cli.errors import ContractError


@dataclass(frozen=True)
class Rollout:
    """A rollout folder. `open_rollout` makes one."""

    folder: Path
    run: Run

    @property
    def num_parts(self) -> int:
        return planned(self.run, self.folder, "num_parts", PartCount)

    def require(self, parts: Sequence[int] | None = None) -> None:
        """Raises ExpoError that names the missing parts, of all or of some."""
        RolloutParts(self.folder, self.run).require(parts)

    def samples(self, part: int) -> list[Sample]:
        """Raises ContractError when they are not as many as were drawn."""
        return [sample for _, sample in self.numbered_samples(part)]

    def numbered_samples(self, part: int) -> list[tuple[int, Sample]]:
        """With the number of each one's line; errors as `samples`."""
        path = part_path(self.folder, part)
        lines = list(jsonl.numbered(path, Sample))
        # Rollouts that something else made need not say how many samples a part has.
        drawn = self.num_samples(part) if "num_samples" in self.run.plan else len(lines)
        found = len({sample.sample_id for _, sample in lines})
        if not found == len(lines) == drawn:
            raise ContractError(
                f"{path}: {len(lines)} samples, {found} of them distinct, not the {drawn} of this "
                "part; remove it and run `expo rollout` again"
            )
        return lines

    def num_samples(self, part: int) -> int:
        """Of one part."""
        return min(
            self.samples_per_part, self.planned("num_samples") - part * self.samples_per_part
        )

    @property
    def samples_per_part(self) -> int:
        """Of all parts but perhaps the last."""
        return self.planned("part_size") * self.planned("num_images_per_prompt")

    def planned(self, name: str) -> int:
        return planned(self.run, self.folder, name, Count)

    def latents_path(self, part: int) -> Path:
        """The safetensors file that holds the part's final latents, one tensor a sample_id."""
        return part_path(self.folder, part, ".safetensors")

    def steps(self, part: int) -> Iterator[StepCandidates]:
        """The part's branched steps, in a rollout that has --num-step-candidates."""
        return jsonl.read(steps_path(self.folder, part), StepCandidates)

    def num_steps(self, part: int) -> int | None:
        """How many it has, where expo drew it."""
        return part_counts(self.folder, part).get("steps")


def steps_path(folder: Path, part: int) -> Path:
    """Where the branched steps of one part are kept."""
    return part_path(folder, part, ".steps.jsonl")


def step_tensors_path(folder: Path, part: int) -> Path:
    """The safetensors file that holds the latents of the part's branched steps."""
    return part_path(folder, part, ".steps.safetensors")


def step_tensor(step_id: str, name: Literal["x_t", "winner", "loser"]) -> str:
    """What that file calls one of them, [channels, height, width]."""
    return f"{step_id}.{name}"


def open_rollout(folder: Path) -> Rollout:
    """Raises ExpoError when there is no such folder, ContractError when it is not a rollout."""
    _, run = rollout_parts(folder)
    return Rollout(folder, run)


def score_path(folder: Path, part: int, reward: str) -> Path:
    """Where the scores of one part by one reward are kept."""
    return part_path(folder, part, f".{reward}.jsonl")


def embeddings_path(folder: Path, part: int, reward: str) -> Path:
    """Image embeddings [dim] by sample_id, where the reward has them; for diversity."""
    return part_path(folder, part, f".{reward}.safetensors")


def reward_run_name(reward: str) -> str:
    """The file of a score folder that says what a label stands for: spec, weights, settings."""
    return f"{reward}.{RUN}"


def scored_rewards(folder: Path) -> list[str]:
    """Labels of the rewards that a score folder holds."""
    return ScoreFolder(folder).scored()


def scores_by_sample(
    folder: Path, part: int, reward: str, samples: Iterable[Sample]
) -> dict[str, float]:
    """The scores of a part, of which `samples` are all samples; some may have none.

    Raises ContractError, with its line, for a score of another reward or sample, of other latents
    than the sample has, and for a second one.
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
                f"{place}: scores latents {score.digest}, but {score.sample_id} of the rollout is "
                f"{digest} now: it was drawn anew; run `expo score` with --overwrite"
            )
        scores[score.sample_id] = score.score
    return scores
