"""The pairs of all files that a policy is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expo_cli.contracts import jsonl
from expo_cli.contracts.records import Pair
from expo_cli.errors import ContractError


@dataclass(frozen=True, kw_only=True)
class TrainingPair:
    """A pair, and the folder that its samples' parts are relative to."""

    pair: Pair
    folder: Path


def read_pairs(paths: Sequence[Path], limit: int | None) -> list[TrainingPair]:
    """The pairs of all files, in order. Raises ContractError when a pair stands there twice."""
    pairs: list[TrainingPair] = []
    places: dict[str, str] = {}
    for path in paths:
        for number, pair in jsonl.numbered(path, Pair):
            place = f"{path}:{number}"
            if pair.pair_id in places:
                raise ContractError(
                    f"{place}: pair {pair.pair_id} stands at {places[pair.pair_id]} already"
                )
            places[pair.pair_id] = place
            pairs.append(TrainingPair(pair=pair, folder=path.parent))
    if not pairs:
        raise ContractError(f"{', '.join(map(str, paths))}: no pairs")
    return pairs[:limit]
