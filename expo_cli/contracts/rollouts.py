"""Reading a rollout folder: its plan, its parts, the samples and latents in them."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expo_cli.contracts import jsonl
from expo_cli.contracts.parts import part_name, part_path, require_complete
from expo_cli.contracts.provenance import PartCount, Run, planned, read_run
from expo_cli.contracts.records import Sample, Score, StepCandidates
from expo_cli.errors import ContractError

# A label stands between two dots of a file name, so it holds none.
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Rollout:
    """A rollout folder. `open_rollout` makes one."""

    folder: Path
    run: Run

    @property
    def num_parts(self) -> int:
        return planned(self.run, self.folder, "num_parts", PartCount)

    def require_complete(self) -> None:
        """Raises ExpoError that names the missing parts."""
        require_complete(self.folder, self.num_parts, "rollout")

    def samples(self, part: int) -> list[Sample]:
        return list(jsonl.read(part_path(self.folder, part), Sample))

    def latents_path(self, part: int) -> Path:
        """The safetensors file that holds the part's final latents, one tensor a sample_id."""
        return part_path(self.folder, part, ".safetensors")

    def steps(self, part: int) -> Iterator[StepCandidates]:
        """The part's branched steps, in a rollout that has --num-step-candidates."""
        return jsonl.read(steps_path(self.folder, part), StepCandidates)


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
    run = read_run(folder)
    if run.command != "rollout":
        raise ContractError(f"{folder}: is the output of `expo {run.command}`, not of rollout")
    return Rollout(folder, run)


def score_path(folder: Path, part: int, reward: str) -> Path:
    """Where the scores of one part by one reward are kept."""
    return part_path(folder, part, f".{reward}.jsonl")


def embeddings_path(folder: Path, part: int, reward: str) -> Path:
    """Image embeddings [dim] by sample_id, where the reward has them; for diversity."""
    return part_path(folder, part, f".{reward}.safetensors")


def reward_run_name(reward: str) -> str:
    """The file of a score folder that says what a label stands for: spec, weights, settings."""
    return f"{reward}.run.json"


def begun_rewards(folder: Path) -> list[str]:
    """Labels of the rewards that a score folder has, or is to have, scores by."""
    ending = reward_run_name("")
    return labels(folder, (path.name.removesuffix(ending) for path in folder.glob(f"?*{ending}")))


def scored_rewards(folder: Path) -> list[str]:
    """Labels of the rewards that a score folder holds."""
    return labels(folder, (path.name.split(".", 2)[1] for path in folder.glob("part-*.*.jsonl")))


def labels(folder: Path, names: Iterable[str]) -> list[str]:
    """The distinct labels in names of files. Raises ContractError for one that cannot be one."""
    found = sorted(set(names))
    for name in found:
        if not LABEL.fullmatch(name):
            raise ContractError(f"{folder}: holds scores of {name!r}, which is no reward's label")
    return found


def scores_by_sample(
    folder: Path, part: int, reward: str, samples: Iterable[Sample]
) -> dict[str, float]:
    """The scores of a part, of which `samples` are all samples; some may have none.

    Raises ContractError, with its line, for a score of another reward or sample, and for a second
    one.
    """
    path = score_path(folder, part, reward)
    prompt_ids = {sample.sample_id: sample.prompt_id for sample in samples}
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
        scores[score.sample_id] = score.score
    return scores
