"""The step pairs of all files that a policy is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expo_cli.contracts import jsonl
from expo_cli.contracts.records import StepPair
from expo_cli.errors import ContractError


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """A step pair, and the folder that its part is relative to."""

    pair: StepPair
    folder: Path


def read_steps(paths: Sequence[Path], limit: int | None) -> list[TrainingStep]:
    """The step pairs of all files, in order. Raises ContractError when one stands there twice."""
    steps: list[TrainingStep] = []
    places: dict[str, str] = {}
    for path in paths:
        for number, pair in jsonl.numbered(path, StepPair):
            place = f"{path}:{number}"
            if pair.step_id in places:
                raise ContractError(
                    f"{place}: step {pair.step_id} stands at {places[pair.step_id]} already"
                )
            places[pair.step_id] = place
            steps.append(TrainingStep(pair, path.parent))
    if not steps:
        raise ContractError(f"{', '.join(map(str, paths))}: no step pairs")
    return steps[:limit]
