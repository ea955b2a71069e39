"""`expo make-pairs`: makes pairs of each prompt's samples, of each step's candidates, or of images
that people have judged."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.kinds import Pairs
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import Pair, StepPair
from expo_cli.contracts.shards import parse_shard
from expo_cli.core.pairing import Pairing
from expo_cli.errors import UsageError
from expo_cli.registry import PAIRINGS, build
from expo_cli.stages.common.inputs import note_unchecked
from expo_cli.stages.common.progress import Notes, seconds_since
from expo_cli.stages.common.stopping import stop_on_signal
from expo_cli.stages.make_pairs.sample_pairs import SamplePairs
from expo_cli.stages.make_pairs.scored_groups import PairSource
from expo_cli.stages.make_pairs.step_pairs import StepPairs
from expo_cli.stages.preferences.export_pairs import ExportResult, export_pairs
from expo_cli.stages.preferences.import_pairs import ImportResult, import_pairs


class PairMaker(Protocol):
    """Makes one kind of pairs from rollouts."""

    sources: Sequence[PairSource]
    plan: dict[str, Any]
    """What determines the pairs, in addition to the command's settings."""

    def __init__(
        self,
        folders: Sequence[Path],
        pairs_folder: Path,
        pairing: Pairing,
        config: MakePairsConfig,
    ) -> None: ...

    def inputs(self) -> dict[str, str]:
        """The sha256 of all inputs."""

    def pairs(self, part_done: Callable[[], None]) -> Iterator[Pair | StepPair]:
        """Yields all pairs. Calls `part_done` for each part; raises ExpoError at the end if there are none."""

    def counts(self) -> dict[str, Any]:
        """Counts of the input, the output and the drops, once all pairs are made."""

    def summary(self) -> str:
        """The counts as text."""


# `Pairing.pairs` -> class.
MAKERS: dict[str, type[PairMaker]] = {
    "samples": SamplePairs,
    "steps": StepPairs,
}


@dataclass(frozen=True)
class MakePairsResult:
    path: Path
    plan: dict[str, Any]
    counts: dict[str, Any]


def make_pairs(
    inputs: Sequence[Path],
    out: Path,
    config: MakePairsConfig,
    images: PairImagesConfig,
    options: RunOptions,
    shard_text: str,
) -> MakePairsResult | ImportResult | ExportResult:
    """Write the pairs of rollouts or of a layout's images to the file `out`, or export pair files with
    their images to the folder `out`; errors as in each case."""
    if images.export is not None:
        return export_pairs(inputs, out, config, images, options, shard_text)
    if images.layout is not None:
        return import_pairs(inputs, out, config, images, options, shard_text)
    if parse_shard(shard_text).count > 1:
        raise UsageError("--shard needs --layout or --export: pairs of rollouts are made in one go")
    return pair_rollouts(inputs, out, config, options)


def pair_rollouts(
    folders: Sequence[Path], out: Path, config: MakePairsConfig, options: RunOptions
) -> MakePairsResult:
    """Write the pairs of rollouts to `out`; `-` is standard output.

    Raises ExpoError when parts are missing or no pair is left, UsageError for flags that do not
    fit the rollouts, ContractError for inconsistent files.
    """
    notes = Notes(options)
    started = time.monotonic()
    to_stdout = out == jsonl.STANDARD_STREAM
    if to_stdout and options.json and not options.dry_run:
        raise UsageError("--json contradicts --out -: both would write to standard output")
    pairing: Pairing = build(PAIRINGS, config.pairing)
    pairs_folder = Path() if to_stdout else out.parent
    maker = MAKERS[pairing.pairs](folders, pairs_folder, pairing, config)
    plan = {name: value for name, value in asdict(config).items() if name != "scores"} | {
        "rollouts": [source.relative for source in maker.sources],
        "num_parts": [source.rollout.num_parts for source in maker.sources],
        **maker.plan,
    }
    free = {"scores": [str(source.scores) for source in maker.sources]}
    read = [each for source in maker.sources for each in source.read()]
    note_unchecked(notes, "make-pairs", {s.rollout.folder: s.rollout.run for s in maker.sources})
    run = Run(command="make-pairs", plan=plan, free=free, inputs=maker.inputs())
    output = Pairs(out)
    finished = None if to_stdout else output.finished(run, read, options.overwrite)
    if options.dry_run:
        return MakePairsResult(out, plan, counts={})
    if finished:
        notes.say(f"make-pairs: nothing to do, {out} is made")
        return MakePairsResult(out, plan, finished.counts)

    num_parts = sum(source.rollout.num_parts for source in maker.sources)
    making = nullcontext() if to_stdout else output.making(run, options.overwrite)
    with making, stop_on_signal() as stop, notes.bar(num_parts, "parts") as bar:

        def part_done() -> None:
            bar.advance()
            stop.check()

        jsonl.write(out, maker.pairs(part_done))
    counts = maker.counts()
    if not to_stdout:
        seconds = seconds_since(started)
        output.finish(replace(run, counts=counts, seconds=seconds))
    notes.say(f"make-pairs: {maker.summary()}")
    return MakePairsResult(out, plan, counts)
