"""`expo make-pairs`: the samples of each prompt, over all rollouts, paired by their scores."""

import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expo_cli.config import MakePairsConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import sha256
from expo_cli.contracts.parts import part_path
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import Pair
from expo_cli.contracts.rollouts import score_path, scored_rewards
from expo_cli.core.pairing import Group
from expo_cli.core.pairs import PairRule, Tally, pair_groups
from expo_cli.errors import ExpoError, UsageError
from expo_cli.registry import COMBINATIONS, PAIRINGS, build, nearest
from expo_cli.stages.output_file import finished_run, write_run_beside
from expo_cli.stages.progress import Notes
from expo_cli.stages.scored_groups import (
    PairSource,
    check_same_judges,
    open_sources,
    read_groups,
)
from expo_cli.stages.stopping import stop_on_signal


@dataclass(frozen=True)
class MakePairsResult:
    path: Path
    plan: dict[str, Any]
    counts: dict[str, Any]


def make_pairs(
    folders: Sequence[Path], out: Path, config: MakePairsConfig, options: RunOptions
) -> MakePairsResult:
    """Write the pairs of scored rollouts to `out`; `-` is standard output.

    Raises ExpoError when parts are missing or no pair is left, UsageError for flags that do not
    fit the scores, ContractError for files that contradict each other.
    """
    notes = Notes(options)
    started = time.monotonic()
    to_stdout = out == jsonl.STANDARD_STREAM
    if to_stdout and options.json and not options.dry_run:
        raise UsageError("--json contradicts --out -: both would write to standard output")
    sources = open_sources(folders, config.scores, Path() if to_stdout else out.parent)
    weights = choose_rewards(config.reward, sources)
    for source in sources:
        source.require_complete(list(weights))
    check_same_judges(sources, list(weights))
    rule = PairRule(
        pairing=build(PAIRINGS, config.pairing),
        combination=build(COMBINATIONS, config.combine),
        weights=weights,
        min_margin=config.min_margin,
        source=config.source,
        seed=config.seed,
    )
    plan = asdict(config) | {
        "rollouts": [source.relative for source in sources],
        "weights": weights,
        "num_parts": [source.rollout.num_parts for source in sources],
    }
    if options.dry_run:
        return MakePairsResult(out, plan, counts={})
    run = Run(command="make-pairs", plan=plan, inputs=input_digests(sources, list(weights)))
    if not to_stdout:
        finished = finished_run(out, run, options)
        if finished:
            notes.say(f"make-pairs: nothing to do, {out} is made")
            return MakePairsResult(out, plan, finished.counts)

    tally = Tally()
    num_parts = sum(source.rollout.num_parts for source in sources)
    with stop_on_signal() as stop, notes.bar(num_parts, "parts") as bar:

        def part_done() -> None:
            bar.advance()
            stop.check()

        groups = read_groups(sources, list(weights), part_done)
        jsonl.write(out, some_pairs(itertools.islice(groups, config.limit), rule, tally))
    counts = tally.counts()
    if not to_stdout:
        seconds = round(time.monotonic() - started, 3)
        write_run_beside(out, replace(run, counts=counts, seconds=seconds))
    notes.say(
        f"make-pairs: {tally.num_pairs} pairs of {tally.num_prompts} prompts and "
        f"{tally.num_samples} samples, dropped {tally.drops()}; mean margin "
        f"{counts['mean_margin']:.4g}; explore drew {counts['explore_share_of_samples']:.0%} of "
        f"the samples, {counts['explore_share_of_winners']:.0%} of the winners, "
        f"{counts['explore_share_of_losers']:.0%} of the losers"
    )
    return MakePairsResult(out, plan, counts)


def choose_rewards(flags: Sequence[str], sources: Sequence[PairSource]) -> dict[str, float]:
    """The weight of each reward to pair by, out of `LABEL[=WEIGHT]` flags or the only one there.

    Raises UsageError for an unknown label, a bad weight, or several rewards and no flag.
    """
    known = sorted({label for source in sources for label in scored_rewards(source.scores)})
    if not known:
        raise ExpoError(
            f"{sources[0].scores}: no scores; "
            f"run `expo score {sources[0].rollout.folder} --reward NAME` first"
        )
    if not flags and len(known) > 1:
        raise UsageError(
            f"the scores are of several rewards; name one by --reward: {', '.join(known)}"
        )
    weights: dict[str, float] = {}
    for flag in flags or known:
        label, equals, weight = flag.partition("=")
        if label not in known:
            raise UsageError(f"--reward {flag}: no scores by {label!r}; {nearest(label, known)}")
        if label in weights:
            raise UsageError(f"--reward {label} is given twice")
        weights[label] = parse_weight(flag, weight) if equals else 1.0
    if len(weights) == 1 and list(weights.values()) != [1.0]:
        raise UsageError("a weight needs more than one --reward")
    return weights


def parse_weight(flag: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UsageError(f"--reward {flag}: the weight must be a positive number")
    return weight


def some_pairs(groups: Iterable[Group], rule: PairRule, tally: Tally) -> Iterator[Pair]:
    """The pairs of all groups. Raises ExpoError, at the end, when there were none."""
    yield from pair_groups(groups, rule, tally)
    if not tally.num_pairs:
        raise ExpoError(
            f"no pairs left of {tally.num_prompts} prompts and {tally.num_samples} samples: "
            f"dropped {tally.drops()}; draw more samples a prompt, lower --min-margin "
            f"({rule.min_margin:g}) or choose another --combine"
        )


def input_digests(sources: Sequence[PairSource], labels: Sequence[str]) -> dict[str, str]:
    """One sha256 for the records of each rollout and one for its scores by each reward."""
    digests = {}
    for source in sources:
        parts = range(source.rollout.num_parts)
        records = [part_path(source.rollout.folder, part) for part in parts]
        digests[source.relative] = sha256_of_all(records)
        for label in labels:
            scores = [score_path(source.scores, part, label) for part in parts]
            digests[f"{source.relative}: {label}"] = sha256_of_all(scores)
    return digests


def sha256_of_all(paths: Sequence[Path]) -> str:
    """What `sha256sum FILES | sha256sum` prints in the folder of the files."""
    listing = "".join(f"{sha256(path)}  {path.name}\n" for path in paths)
    return hashlib.sha256(listing.encode()).hexdigest()
