"""`expo make-pairs --layout`: turns preferences over images into pairs of latents.

First the rows are read without their images, to find which images are needed. Each image is encoded
once, in parts that any number of workers share. The pairs are written when all parts exist. Nothing
here needs torch.
"""

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.identity import VAE, file_sha256, model_sha256s, parts_sha256
from expo_cli.contracts.kinds import LatentParts, Pairs, latents_folder
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.records import EncodedImage, Pair, SampleRef
from expo_cli.contracts.shards import num_parts, parse_shard, part_name, part_path
from expo_cli.contracts.sources import written_down
from expo_cli.core.combination import ZScoreSum
from expo_cli.core.pair_rule import PairRule, Tally
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.registry import LAYOUTS, PAIRINGS, build
from expo_cli.stages.common.inputs import check_overwrite, model_inputs
from expo_cli.stages.common.progress import Notes, seconds_since
from expo_cli.stages.preferences.protocol import Layout, NeededImage, Preferences, flipped

# The `reward` of a pair made from human preferences.
REWARD = "human"
# Settings that apply only to pairs from rollouts.
OTHERS = ("reward", "scores", "combine", "source", "label_agreement")
# Paths as given, and settings that a later run may change: `unreadable` does not affect latents.
FREE = ("layout", "vae", "export", "unreadable")


@dataclass(frozen=True)
class ImportResult:
    """`path` is the file of pairs, or the folder of latents while parts are missing."""

    path: Path
    plan: dict[str, Any]
    counts: dict[str, Any]
    parts_encoded: int
    parts_missing: int


def import_pairs(
    inputs: Sequence[Path],
    out: Path,
    config: MakePairsConfig,
    images: PairImagesConfig,
    options: RunOptions,
    shard_text: str,
) -> ImportResult:
    """Encode the missing parts of this shard; write the pairs to `out` once no part is missing.

    Raises ContractError for a bad row or image, ExpoError when no pair is left,
    UsageError for flags that do not fit.
    """
    started = time.monotonic()
    notes = Notes(options)
    shard = parse_shard(shard_text)
    preferences = open_preferences(inputs, out, config, images)
    needed, tally, sha256 = needed_images(preferences)
    count = num_parts(len(needed), images.part_size)
    # `unreadable` does not affect latents, so a later run may change it.
    settings = {name: value for name, value in asdict(images).items() if name not in FREE}
    plan = settings | {
        "layout": images.layout.partition(":")[0],
        "seed": config.seed,
        "limit": config.limit,
        "pairing": config.pairing,
        "min_margin": config.min_margin,
        "num_pairs": tally.num_pairs * (1 + images.flip),
        "num_images": len(needed),
        "num_parts": count,
    }
    folder = latents_folder(out)
    notes.say(
        f"make-pairs: {tally.num_pairs} pairs from {tally.num_prompts} rows, dropped {tally.drops()}; "
        f"{len(needed)} images in {count} parts"
    )
    run = Run(
        command="make-pairs",
        plan=plan,
        free={"layout": images.layout, "preferences": list(map(str, inputs))}
        | written_down("vae", images.vae, folder),
        inputs={
            "preferences": sha256,
            "images": images_sha256(preferences, needed),
            **model_sha256s("vae", images.vae, VAE),
        },
    )
    read = [Input("an input", path) for path in inputs] + model_inputs("--vae", images.vae)
    parts, output = LatentParts(folder, run), Pairs(out)
    check_overwrite(options, shard)
    parts.check(run, read, options.overwrite)
    finished = output.finished(run, read, options.overwrite)
    if options.dry_run:
        missing = count if options.overwrite else len(parts.missing())
        return ImportResult(out, plan, counts={}, parts_encoded=0, parts_missing=missing)
    with parts.begun(run, read, options.overwrite):
        missing = parts.missing()
        todo = [part for part in missing if shard.takes(part)]
        if finished and not missing:
            notes.say(f"make-pairs: nothing to do, {out} is made")
            return ImportResult(out, plan, finished.counts, parts_encoded=0, parts_missing=0)
        if todo:
            # Imported here: if all parts are encoded, torch is not needed.
            from expo_cli.stages.preferences.encoding import encode_parts

            encode_parts(preferences, needed, parts, run, todo, images, config.seed, notes)
    missing = parts.missing()
    if missing:
        notes.say(
            f"make-pairs: {len(missing)} parts are left to other shards; {out} is written after them"
        )
        return ImportResult(folder, plan, {}, len(todo), len(missing))
    tally = Tally()
    with output.making(run, options.overwrite):
        jsonl.write(out, finished_pairs(preferences, needed, folder, images, tally))
    counts = {
        "num_rows": tally.num_prompts,
        "num_pairs": tally.num_pairs,
        "num_images": len(needed),
        "dropped": dict(tally.dropped),
    }
    seconds = seconds_since(started)
    output.finish(replace(run, counts=counts, seconds=seconds))
    notes.say(f"make-pairs: {tally.num_pairs} pairs, dropped {tally.drops()}")
    return ImportResult(out, plan, counts, len(todo), 0)


def open_preferences(
    inputs: Sequence[Path], out: Path, config: MakePairsConfig, images: PairImagesConfig
) -> Preferences:
    """Raises UsageError for an unknown layout, and for flags that do not apply."""
    for path in inputs:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UsageError(f"{path}: is not a regular file; preferences are read several times")
    layout: Layout = build(LAYOUTS, images.layout)
    pairing = build(PAIRINGS, config.pairing)
    if pairing.pairs != "samples":
        raise UsageError(f"--pairing {config.pairing} contradicts --layout: images have no steps")
    if out == jsonl.STANDARD_STREAM:
        raise UsageError(
            "--out - contradicts --layout: the latents need a folder next to the pairs"
        )
    Pairs(out).check_place([])
    for name in OTHERS:
        if getattr(config, name) != getattr(MakePairsConfig, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} contradicts --layout: people have judged these images")
    rule = PairRule(
        pairing=pairing,
        combination=ZScoreSum(),
        weights={REWARD: 1.0},
        min_margin=config.min_margin,
        source="offline",
        seed=config.seed,
    )
    return Preferences(inputs, layout, rule, config.limit, images.flip)


def needed_images(preferences: Preferences) -> tuple[dict[str, NeededImage], Tally, str]:
    """The images of all pairs by sample_id, in the order of their first pair; the counts of rows; and
    one sha256 over the pairs and the places of their images (which are not hashed).

    Raises ExpoError when there is no pair.
    """
    tally, needed = Tally(), {}
    listing = hashlib.sha256()
    for pair, images in preferences.pairs(tally):
        for ref in (pair.winner, pair.loser):
            needed.setdefault(ref.sample_id, images[ref.sample_id])
        listing.update(msgspec.json.encode([pair, *images.values()]))
    if not needed:
        raise ExpoError(f"no pairs left from {tally.num_prompts} rows: dropped {tally.drops()}")
    return needed, tally, listing.hexdigest()


def images_sha256(preferences: Preferences, needed: Mapping[str, NeededImage]) -> str:
    """The sha256 of the files with the images: image files, or the inputs with image columns."""
    listing = []
    for number, group in groupby(needed.values(), key=lambda image: image.input):
        path, places = preferences.inputs[number], [image.place for image in group]
        if not isinstance(next(preferences.layout.read(path, places[:1])), Path):
            listing.append((str(number), file_sha256(path)))
            continue
        for place, file in zip(places, preferences.layout.read(path, places), strict=True):
            if file.is_file():
                listing.append((f"{number}/{place.name}", file_sha256(file)))
    return parts_sha256(listing)


def finished_pairs(
    preferences: Preferences,
    needed: Mapping[str, NeededImage],
    folder: Path,
    images: PairImagesConfig,
    tally: Tally,
) -> Iterator[Pair]:
    """Yields every pair whose images were readable, each followed by its mirror image with --flip."""
    count = num_parts(len(needed), images.part_size)
    unreadable, digests = set(), {}
    for part in range(count):
        of_part = min(images.part_size, len(needed) - part * images.part_size)
        for image in encoded_images(folder, part, of_part):
            if image.problem:
                unreadable.add(image.sample_id)
            digests[image.sample_id] = image.digest
            digests[flipped(image.sample_id)] = image.flip_digest
    parts = {
        sample_id: f"{folder.name}/{part_name(number // images.part_size)}.safetensors"
        for number, sample_id in enumerate(needed)
    }

    def located(ref: SampleRef) -> SampleRef:
        return replace(ref, part=parts[ref.sample_id], digest=digests[ref.sample_id])

    num_pairs = 0
    for pair, _ in preferences.pairs(tally):
        if not unreadable.isdisjoint((pair.winner.sample_id, pair.loser.sample_id)):
            tally.dropped["pairs_of_unreadable_images"] += 1
            continue
        pair = replace(pair, winner=located(pair.winner), loser=located(pair.loser))
        for one in (pair, mirrored(pair, digests)) if images.flip else (pair,):
            num_pairs += 1
            yield one
    tally.num_pairs = num_pairs
    if not num_pairs:
        raise ExpoError(f"no pairs left from {tally.num_prompts} rows: dropped {tally.drops()}")


def encoded_images(folder: Path, part: int, count: int) -> list[EncodedImage]:
    """The records of a part. Raises ContractError when their number is not the encoded one."""
    path = part_path(folder, part)
    images = list(jsonl.read(path, EncodedImage))
    if len(images) != count:
        raise ContractError(
            f"{path}: {len(images)} images, not the {count} of this part; remove it and run the "
            "same `expo make-pairs` again"
        )
    return images


def mirrored(pair: Pair, digests: Mapping[str, str | None]) -> Pair:
    def mirror(ref: SampleRef) -> SampleRef:
        name = flipped(ref.sample_id)
        return replace(ref, sample_id=name, digest=digests[name])

    return replace(
        pair,
        pair_id=flipped(pair.pair_id),
        winner=mirror(pair.winner),
        loser=mirror(pair.loser),
    )
