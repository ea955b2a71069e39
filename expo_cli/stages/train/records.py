"""The records that a policy is trained on: pairs, labelled images or step pairs of all files.

`EVIDENCE` is the table of their kinds; an objective names its kind in `learns_from`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from expo_cli.contracts import jsonl
from expo_cli.contracts.records import Pair, SampleRef, StepPair
from expo_cli.errors import ContractError
from expo_cli.registry import imported

Record = TypeVar("Record", Pair, StepPair)


class TrainingRecord(Protocol):
    """A record of a file, and the `folder` to which its parts are relative."""

    folder: Path

    @property
    def refs(self) -> Sequence[SampleRef]:
        """The samples whose latents it needs; none for a step pair, which has its own tensors."""

    @property
    def parts(self) -> Sequence[str]:
        """The safetensors files with its tensors."""

    @property
    def digest(self) -> str | None:
        """The digest of the judged latents, None if the record lacks one."""


@dataclass(frozen=True, kw_only=True)
class TrainingPair:
    pair: Pair
    folder: Path

    @property
    def refs(self) -> list[SampleRef]:
        pair = self.pair
        samples = (pair.winner, pair.loser, pair.explore, pair.main)
        return [ref for ref in samples if ref is not None]

    @property
    def parts(self) -> list[str]:
        return [ref.part for ref in self.refs]

    @property
    def digest(self) -> str | None:
        return self.pair.winner.digest and self.pair.loser.digest


@dataclass(frozen=True, kw_only=True)
class TrainingImage:
    """One side of a pair: `desirable` if it won."""

    image_id: str
    prompt: str
    ref: SampleRef
    desirable: bool
    folder: Path

    @property
    def refs(self) -> list[SampleRef]:
        return [self.ref]

    @property
    def parts(self) -> list[str]:
        return [self.ref.part]

    @property
    def digest(self) -> str | None:
        return self.ref.digest


@dataclass(frozen=True, kw_only=True)
class TrainingStepPair:
    pair: StepPair
    folder: Path

    @property
    def refs(self) -> list[SampleRef]:
        return []

    @property
    def parts(self) -> list[str]:
        return [self.pair.part]

    @property
    def digest(self) -> str | None:
        return self.pair.digest


def distinct_records(
    paths: Sequence[Path], record_type: type[Record], id_field: str, noun: str
) -> Iterator[tuple[Path, Record]]:
    """The records of all files, in order, each with its file's folder.

    Raises ContractError for a duplicate record, or if there is none.
    """
    places: dict[str, str] = {}
    for path in paths:
        for number, record in jsonl.numbered(path, record_type):
            place, name = f"{path}:{number}", getattr(record, id_field)
            if name in places:
                raise ContractError(f"{place}: {noun} {name} is already at {places[name]}")
            places[name] = place
            yield path.parent, record
    if not places:
        raise ContractError(f"{', '.join(map(str, paths))}: no {noun}s")


def read_pairs(paths: Sequence[Path], limit: int | None) -> list[TrainingPair]:
    """The first `limit` pairs of all files. Errors as `distinct_records`."""
    pairs = distinct_records(paths, Pair, "pair_id", "pair")
    return [TrainingPair(pair=pair, folder=folder) for folder, pair in pairs][:limit]


def read_images(paths: Sequence[Path], limit: int | None) -> list[TrainingImage]:
    """Winners (desirable) and losers of the first `limit` pairs. Errors as `distinct_records`.

    A sample in several pairs counts as several images, each desirable if it won that pair.
    """
    return [
        TrainingImage(
            image_id=f"{item.pair.pair_id}/{role}",
            prompt=item.pair.prompt,
            ref=getattr(item.pair, role),
            desirable=role == "winner",
            folder=item.folder,
        )
        for item in read_pairs(paths, limit)
        for role in ("winner", "loser")
    ]


def read_step_pairs(paths: Sequence[Path], limit: int | None) -> list[TrainingStepPair]:
    """The first `limit` step pairs of all files. Errors as `distinct_records`."""
    pairs = distinct_records(paths, StepPair, "step_id", "step pair")
    return [TrainingStepPair(pair=pair, folder=folder) for folder, pair in pairs][:limit]


@dataclass(frozen=True)
class Kind:
    """A kind of evidence: the records of its files, how they are read (paths, limit), and the
    `EvidenceStream` that turns them into tensors, which is imported when training begins."""

    noun: str
    record_type: type
    read: Callable[[Sequence[Path], int | None], Sequence[TrainingRecord]]
    stream_path: str

    @property
    def stream(self) -> type:
        return imported(self.stream_path)


EVIDENCE = {
    "pairs": Kind("pairs", Pair, read_pairs, "expo_cli.stages.train.pair_evidence.PairEvidence"),
    "images": Kind(
        "pairs", Pair, read_images, "expo_cli.stages.train.image_evidence.ImageEvidence"
    ),
    "steps": Kind(
        "step pairs", StepPair, read_step_pairs, "expo_cli.stages.train.step_evidence.StepEvidence"
    ),
}
