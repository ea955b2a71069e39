"""`expo score`: which scores there are, which are missing, and under which label.

Everything here is known before torch is imported, so scores that exist cost nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expo_cli.config import RunOptions, ScoreConfig
from expo_cli.contracts.parts import num_parts, parse_shard, require_parts, shards_with
from expo_cli.contracts.provenance import Run, read_run, write_run
from expo_cli.contracts.rollouts import LABEL, reward_run_name, score_path
from expo_cli.errors import UsageError
from expo_cli.registry import REWARDS, build, split_label
from expo_cli.rewards.protocol import Reward
from expo_cli.stages.common.folders import begin_or_continue
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.scoring.image_sources import RolloutImages, open_images


@dataclass(frozen=True)
class ScoreResult:
    """Specs, samples scored by this run, and parts without scores, each by reward label; `dropped`
    counts the samples that this run read and did not judge, by the reason.

    `missing_parts` are the numbers of the parts that lack the scores of some reward,
    `missing_shards` the shards, of as many as --shard says, that take any of them.
    """

    path: Path
    rewards: dict[str, str]
    num_samples: int
    num_parts: int
    num_scored: dict[str, int]
    dropped: dict[str, int]
    parts_missing: dict[str, int]
    missing_parts: list[int]
    missing_shards: list[int]
    plan: dict[str, Any]


@dataclass(frozen=True)
class NamedReward:
    """A reward, what the command line calls it, and what files and tables call it."""

    label: str
    spec: str
    reward: Reward


def named_rewards(specs: Sequence[str]) -> list[NamedReward]:
    """Raises UsageError for unknown rewards or options, and for labels that are wrong or equal."""
    named: dict[str, NamedReward] = {}
    for text in specs:
        label, spec = split_label(text)
        if not LABEL.fullmatch(label):
            raise UsageError(
                f"--reward {text}: the label {label!r} may hold only letters, digits, '_' and '-'"
            )
        if label in named:
            raise UsageError(
                f"--reward {text}: {label!r} is given twice; tell them apart by LABEL={spec}"
            )
        named[label] = NamedReward(label, spec, build(REWARDS, spec))
    return list(named.values())


def score_folder(
    folder: Path, out: Path, config: ScoreConfig, options: RunOptions, shard_text: str
) -> ScoreResult:
    """Score what is missing of this shard's parts, each reward under its label, into `out`."""
    started = time.monotonic()
    notes = Notes(options)
    shard = parse_shard(shard_text)
    if options.overwrite and shard.count > 1:
        raise UsageError("--overwrite contradicts --shard; remove the scores, then start them")
    rewards = named_rewards(config.reward)
    images = open_images(folder, config)
    count = num_parts(images.num_samples, images.samples_per_part)
    plan = images.plan() | {"num_samples": images.num_samples, "num_parts": count}
    found = {} if options.overwrite else {r.label: parts_scored(out, r, count) for r in rewards}
    todo = {
        part: labels
        for part in range(count)
        if shard.takes(part)
        and (labels := [r.label for r in rewards if part not in found.get(r.label, ())])
    }
    if isinstance(images, RolloutImages):
        require_parts(folder, list(todo), "rollout")
    notes.say(
        f"score: {images.num_samples} images in {count} parts by "
        f"{', '.join(r.label for r in rewards)}; {len(todo)} parts of this shard have scores to make"
    )
    num_scored = dict.fromkeys([r.label for r in rewards], 0)
    dropped: dict[str, int] = {}
    if not options.dry_run:
        runs = begin(out, plan, images.inputs(), rewards, config, options)
        if todo:
            # Imported here: scores that exist need no torch.
            from expo_cli.stages.scoring.run import score_parts

            by_label = {r.label: r.reward for r in rewards}
            done = score_parts(images, by_label, todo, out, config, notes)
            num_scored |= done.num_scored
            dropped = done.dropped
        seconds = round(time.monotonic() - started, 3)
        for reward in rewards:
            complete = len(parts_scored(out, reward, count)) == count
            # A worker that was killed after the last part left no counts.
            counted = read_run(out, reward_run_name(reward.label)).counts
            if complete and (num_scored[reward.label] or not counted):
                counts = {"samples": images.num_samples, "parts": count}
                run = replace(runs[reward.label], counts=counts, seconds=seconds)
                write_run(out, run, reward_run_name(reward.label))
    scored = {r.label: parts_scored(out, r, count) for r in rewards}
    missing = sorted(set(range(count)).difference(set.intersection(*scored.values())))
    return ScoreResult(
        path=out,
        rewards={r.label: r.spec for r in rewards},
        num_samples=images.num_samples,
        num_parts=count,
        num_scored=num_scored,
        dropped=dropped,
        parts_missing={label: count - len(parts) for label, parts in scored.items()},
        missing_parts=missing,
        missing_shards=shards_with(missing, shard.count),
        plan=plan | {"dtype": config.dtype, "batch_size": config.batch_size},
    )


def parts_scored(out: Path, reward: NamedReward, count: int) -> set[int]:
    return {part for part in range(count) if score_path(out, part, reward.label).exists()}


def begin(
    out: Path,
    plan: dict[str, Any],
    inputs: dict[str, str],
    rewards: Sequence[NamedReward],
    config: ScoreConfig,
    options: RunOptions,
) -> dict[str, Run]:
    """Write run.json and each reward's, or check that those there say the same; the rewards' runs.

    Raises ContractError when the folder holds scores of other images, or a label stands for
    another reward. With --overwrite what the labels stood for is removed first.
    """
    begin_or_continue(
        out,
        Run(command="score", plan=plan, inputs=inputs),
        results="part-*",
        remedy="choose another --out, or remove these scores of other images",
    )
    runs = {}
    for reward in rewards:
        name = reward_run_name(reward.label)
        settings = {"spec": reward.spec, "dtype": config.dtype} | reward.reward.identity()
        runs[reward.label] = Run(command="score", plan=settings)
        if options.overwrite:
            for path in (out / name, *out.glob(f"part-*.{reward.label}.*")):
                path.unlink(missing_ok=True)
        begin_or_continue(
            out,
            runs[reward.label],
            name,
            results=f"part-*.{reward.label}.jsonl",
            remedy=f"choose another label (LABEL={reward.spec}), or --overwrite to score anew",
        )
    return runs
