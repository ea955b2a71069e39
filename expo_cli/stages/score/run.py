"""The work of `expo score`: one pass over the images of each part, by all missing rewards."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from PIL.Image import Image

from expo_cli.config import ScoreConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.records import ImageEntry, Sample, Score
from expo_cli.contracts.rollouts import embeddings_path, score_path
from expo_cli.contracts.tensors import write_tensors
from expo_cli.errors import ExpoError
from expo_cli.rewards.protocol import Batch, Judgement, Reward
from expo_cli.stages.common.device import default_device, resolve_dtype
from expo_cli.stages.common.progress import Bar, Notes
from expo_cli.stages.common.stopping import StopRequest, stop_on_signal
from expo_cli.stages.score.image_index import ImageIndex
from expo_cli.stages.score.image_sources import ImageSource
from expo_cli.stages.score.scores import Scores

Samples = Sequence[Sample | ImageEntry]
# Yields the images of some samples of a part; None for one that is not judged.
ImageReader = Callable[[int, Samples], Iterator[Image | None]]


@dataclass(frozen=True)
class ScoredParts:
    """Number of scored samples by label, and of dropped samples by reason."""

    num_scored: dict[str, int]
    dropped: dict[str, int]


def score_parts(
    source: ImageSource,
    rewards: Mapping[str, Reward],
    todo: Mapping[int, Sequence[str]],
    output: Scores,
    config: ScoreConfig,
    notes: Notes,
) -> ScoredParts:
    """Write the scores of each part in `todo` by the rewards with its labels.

    Raises Interrupted, between two batches, when a signal asks to stop.
    """
    device = default_device()
    dtype = resolve_dtype(config.dtype, device)
    needed = {label for labels in todo.values() for label in labels}
    for label in sorted(needed):
        rewards[label].load(device, dtype)
    read = image_reader(source, device, dtype, config.batch_size)
    scored: dict[str, list[float]] = {label: [] for label in sorted(needed)}
    num_dropped = 0
    sizes = {
        part: min(source.samples_per_part, source.num_samples - part * source.samples_per_part)
        for part in todo
    }
    with stop_on_signal() as stop, notes.bar(sum(sizes.values()), "images") as bar:
        for part, labels in todo.items():
            samples = source.samples(part)
            judging = {label: rewards[label] for label in labels}
            usable, judged = judge_part(part, samples, judging, read, config.batch_size, bar, stop)
            num_dropped += len(samples) - len(usable)
            digests = digests_of(source, usable)
            for label in labels:
                output.claim(label)
                scores = scores_of_part(label, usable, digests, judged[label])
                write_part(output.path, part, label, scores, judged[label])
                scored[label] += [score.score for score in scores]
            stop.check()
    for label, scores in scored.items():
        average = f"{fmean(scores):.4f} on average" if scores else "none"
        notes.say(f"score: {label} {average} over {len(scores)} images")
    if num_dropped:
        reason = source.unusable.replace("_", " ")
        notes.say(f"score: {num_dropped} of {sum(sizes.values())} images have no score ({reason})")
    return ScoredParts(
        {label: len(scores) for label, scores in scored.items()},
        {source.unusable: num_dropped} if num_dropped else {},
    )


def image_reader(
    source: ImageSource, device: torch.device, dtype: torch.dtype, batch_size: int
) -> ImageReader:
    if isinstance(source, ImageIndex):
        return lambda part, samples: source.images(samples, ahead=batch_size)
    # Imported here: only rollouts need diffusers, which is slow to import.
    from expo_cli.stages.common.decoding import LatentDecoder

    decoder = LatentDecoder(source.vae, device, dtype)
    latents_path = source.rollout.latents_path

    def decode(part: int, samples: Samples) -> Iterator[Image | None]:
        for start in range(0, len(samples), batch_size):
            rows = samples[start : start + batch_size]
            good = {s.sample_id: s.digest for s in rows if not s.checks.flagged}
            images = iter(decoder.images(latents_path(part), good))
            yield from (None if sample.checks.flagged else next(images) for sample in rows)

    return decode


def judge_part(
    part: int,
    samples: Samples,
    rewards: Mapping[str, Reward],
    read: ImageReader,
    batch_size: int,
    bar: Bar,
    stop: StopRequest,
) -> tuple[Samples, dict[str, list[Judgement]]]:
    """The part's samples with an image, and each reward's judgements of them, in order; each image
    is read once.

    Batches never span parts, so that a part's bytes do not depend on what else was scored.
    """
    judged: dict[str, list[Judgement]] = {label: [] for label in rewards}
    whole = [label for label, reward in rewards.items() if reward.whole_parts]
    in_batches = [label for label in rewards if label not in whole]
    kept: list[Image] = []
    usable: list[Sample | ImageEntry] = []
    unread = read(part, samples)
    for start in range(0, len(samples), batch_size):
        stop.check()
        rows = samples[start : start + batch_size]
        read_rows = zip(rows, islice(unread, len(rows)), strict=True)
        good = [(sample, image) for sample, image in read_rows if image is not None]
        batch, images = [sample for sample, _ in good], [image for _, image in good]
        for label in in_batches if good else ():
            judged[label].append(judge(label, rewards[label].judge, batch, images, stop))
        usable.extend(batch)
        if whole:
            kept.extend(images)
        bar.advance(len(rows))
    for label in whole if usable else ():
        judged[label].append(judge(label, rewards[label].judge, usable, kept, stop))
    return usable, judged


def judge(
    label: str,
    judge_batch: Callable[[Batch], Judgement],
    samples: Samples,
    images: Sequence[Image],
    stop: StopRequest,
) -> Judgement:
    """One judgement. Raises ExpoError when a score is missing or not finite."""
    batch = Batch(
        sample_ids=[sample.sample_id for sample in samples],
        prompts=[sample.prompt for sample in samples],
        images=images,
    )
    try:
        judgement = judge_batch(batch)
    except ExpoError:
        # SLURM also signals external programs; then their exit is not a failure.
        stop.check()
        raise
    if len(judgement.raw) != len(samples):
        raise ExpoError(f"{label}: gave {len(judgement.raw)} scores for {len(samples)} images")
    for sample, raw in zip(samples, judgement.raw, strict=True):
        if not math.isfinite(raw * judgement.scale):
            raise ExpoError(f"{label}: the score of {sample.sample_id} is {raw}, not a number")
    return judgement


def digests_of(source: ImageSource, samples: Samples) -> list[str | None]:
    """The digest of what was judged: a sample's latents, or an image file."""
    if isinstance(source, ImageIndex):
        return [source.digest(entry) for entry in samples]
    return [sample.digest for sample in samples]


def scores_of_part(
    label: str,
    samples: Samples,
    digests: Sequence[str | None],
    judgements: Sequence[Judgement],
) -> list[Score]:
    raws = [(float(raw), judgement.scale) for judgement in judgements for raw in judgement.raw]
    return [
        Score(
            sample_id=sample.sample_id,
            prompt_id=sample.prompt_id,
            reward=label,
            score=raw * scale,
            raw=raw,
            scale=scale,
            digest=digest,
        )
        for sample, digest, (raw, scale) in zip(samples, digests, raws, strict=True)
    ]


def write_part(
    out: Path, part: int, label: str, scores: Sequence[Score], judgements: Sequence[Judgement]
) -> None:
    """Write a part's image embeddings, if any, then its scores, which mark the part as done."""
    if judgements and all(judgement.embeddings is not None for judgement in judgements):
        rows = torch.cat([judgement.embeddings for judgement in judgements]).half()
        embeddings = {score.sample_id: row for score, row in zip(scores, rows, strict=True)}
        write_tensors(embeddings_path(out, part, label), embeddings)
    jsonl.write(score_path(out, part, label), scores)
