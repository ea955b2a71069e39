"""`expo score`: finds which scores exist and which are missing, by label.

Nothing here imports torch, so existing scores cost nothing.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expo_cli.config import RunOptions, ScoreConfig
from expo_cli.contracts.kinds import LABEL
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.shards import num_parts, parse_shard, shards_with
from expo_cli.contracts.tensors import open_tensors
from expo_cli.errors import UsageError
from expo_cli.registry import REWARDS, build, split_label
from expo_cli.stages.common.inputs import check_overwrite, note_unchecked, spec_inputs
from expo_cli.stages.common.progress import Notes, seconds_since
from expo_cli.stages.score.image_index import ImageIndex, check_judged_images
from expo_cli.stages.score.image_sources import ImageSource, RolloutImages, open_images
from expo_cli.stages.score.scores import NamedReward, Scores


@dataclass(frozen=True)
class ScoreResult:
    """Specs, samples scored by this run, and parts without scores, each by reward label. `dropped`
    counts the samples that this run read but did not judge, by reason.

    `missing_parts` are the numbers of the parts that lack scores of some reward, `missing_shards`
    the shards, out of those of --shard, that take any of them.
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


def check_can_be_made(images: ImageSource, parts: Sequence[int]) -> None:
    """Called before existing scores are removed. Raises ContractError for truncated parts."""
    for part in parts:
        images.samples(part)
        if isinstance(images, RolloutImages):
            # The header suffices: it states the file's length.
            open_tensors(images.rollout.latents_path(part), "numpy", checked=True)


def named_rewards(specs: Sequence[str]) -> list[NamedReward]:
    """Raises UsageError for unknown rewards or options, and for bad or equal labels."""
    named: dict[str, NamedReward] = {}
    for text in specs:
        label, spec = split_label(text)
        if not LABEL.fullmatch(label):
            raise UsageError(
                f"--reward {text}: the label {label!r} may hold only letters, digits, '_' and '-'"
            )
        if label in named:
            raise UsageError(
                f"--reward {text}: {label!r} is given twice; distinguish them with LABEL={spec}"
            )
        named[label] = NamedReward(label, spec, build(REWARDS, spec))
    return list(named.values())


def score_folder(
    folder: Path, out: Path, config: ScoreConfig, options: RunOptions, shard_text: str
) -> ScoreResult:
    """Score the missing parts of this shard by each reward, and write the scores to `out`."""
    started = time.monotonic()
    notes = Notes(options)
    shard = parse_shard(shard_text)
    check_overwrite(options, shard)
    rewards = named_rewards(config.reward)
    images = open_images(folder, config)
    count = num_parts(images.num_samples, images.samples_per_part)
    plan = images.plan() | {"num_samples": images.num_samples, "num_parts": count}
    of_images = Run(command="score", plan=plan, free=images.free(), inputs=images.inputs())
    read = images.read() + [each for r in rewards for each in spec_inputs("--reward", r.spec)]
    scores = Scores(out, count, of_images, read, rewards, config, options.overwrite)
    scores.check()
    if isinstance(images, RolloutImages):
        note_unchecked(notes, "score", {folder: images.rollout.run})
    todo = scores.to_make(shard)
    if isinstance(images, RolloutImages):
        images.rollout.require(list(todo))
    notes.say(
        f"score: {images.num_samples} images in {count} parts by "
        f"{', '.join(r.label for r in rewards)}; {len(todo)} parts of this shard have scores to make"
    )
    if options.overwrite:
        check_can_be_made(images, list(todo))
    num_scored = dict.fromkeys([r.label for r in rewards], 0)
    dropped: dict[str, int] = {}
    if not options.dry_run:
        with scores.begun():
            if isinstance(images, ImageIndex):
                check_judged_images(images, out, [r.label for r in rewards], shard)
            if todo:
                # Imported here: existing scores do not need torch.
                from expo_cli.stages.score.run import score_parts

                by_label = {r.label: r.reward for r in rewards}
                done = score_parts(images, by_label, todo, scores, config, notes)
                num_scored |= done.num_scored
                dropped = done.dropped
        scores.finish(num_scored, images.num_samples, seconds_since(started))
    missing = scores.missing()
    return ScoreResult(
        path=out,
        rewards={r.label: r.spec for r in rewards},
        num_samples=images.num_samples,
        num_parts=count,
        num_scored=num_scored,
        dropped=dropped,
        parts_missing={label: len(parts) for label, parts in missing.items()},
        missing_parts=sorted(set().union(*missing.values())),
        missing_shards=shards_with(set().union(*missing.values()), shard.count),
        plan=plan | of_images.free | {"dtype": config.dtype, "batch_size": config.batch_size},
    )
