"""The records that a policy is trained on: pairs, labelled images or step pairs of all files.

`EVIDENCE` is the table of their kinds; an objective names its kind in `learns_from`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from expo_cli.config import TrainConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.records import Pair, SampleRef, StepPair
from expo_cli.core.mix import pools
from expo_cli.core.visits import VisitOrder
from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import imported

Record = TypeVar("Record", Pair, StepPair)


class TrainingRecord(Protocol):
    """A record, the `folder` to which its parts are relative, and its file's number, from 0."""

    folder: Path
    file: int

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
    file: int

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

    @property
    def has_agents(self) -> bool:
        """Whether it has samples of both agents."""
        return self.pair.explore is not None


@dataclass(frozen=True, kw_only=True)
class TrainingImage:
    """One side of a pair: `desirable` if it won."""

    image_id: str
    prompt: str
    ref: SampleRef
    desirable: bool
    folder: Path
    file: int

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
    file: int

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
) -> Iterator[tuple[int, Record]]:
    """The records of all files, in order, each with its file's number.

    Raises ContractError for a duplicate record, or if there is none.
    """
    places: dict[str, str] = {}
    for file, path in enumerate(paths):
        for number, record in jsonl.numbered(path, record_type):
            place, name = f"{path}:{number}", getattr(record, id_field)
            if name in places:
                raise ContractError(f"{place}: {noun} {name} is already at {places[name]}")
            places[name] = place
            yield file, record
    if not places:
        raise ContractError(f"{', '.join(map(str, paths))}: no {noun}s")


def read_pairs(paths: Sequence[Path], limit: int | None) -> list[TrainingPair]:
    """The first `limit` pairs of all files. Errors as `distinct_records`."""
    pairs = distinct_records(paths, Pair, "pair_id", "pair")
    folders = [path.parent for path in paths]
    records = [TrainingPair(pair=pair, folder=folders[file], file=file) for file, pair in pairs]
    return records[:limit]


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
            file=item.file,
        )
        for item in read_pairs(paths, limit)
        for role in ("winner", "loser")
    ]


def read_step_pairs(paths: Sequence[Path], limit: int | None) -> list[TrainingStepPair]:
    """The first `limit` step pairs of all files. Errors as `distinct_records`."""
    pairs = distinct_records(paths, StepPair, "step_id", "step pair")
    folders = [path.parent for path in paths]
    records = [TrainingStepPair(pair=pair, folder=folders[file], file=file) for file, pair in pairs]
    return records[:limit]


def check_mix(paths: Sequence[Path], records: Sequence[TrainingRecord], mix: str | None) -> None:
    """Raises UsageError when --mix does not fit the files, of which none may be without records."""
    counts = Counter(record.file for record in records)
    for file, path in enumerate(paths):
        if mix is not None and not counts[file]:
            raise UsageError(f"--mix {mix}: {path} has no records (within --limit); leave it out")
    try:
        pools(mix, list(counts.values()))
    except ValueError as error:
        raise UsageError(str(error)) from error


def visit_order(records: Sequence[TrainingRecord], config: TrainConfig) -> VisitOrder:
    """The order in which records, which are sorted by file, are visited; see `check_mix`."""
    sizes = Counter(record.file for record in records).values()
    return VisitOrder(config.seed, *pools(config.mix, list(sizes)), config.noise_draws)


def explored_share(pairs: Sequence[TrainingPair], order: VisitOrder) -> float:
    """The share of all visits to pairs with samples of both agents."""
    return order.share([item.has_agents for item in pairs])


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
