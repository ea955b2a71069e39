"""`expo train`: checks the inputs and settings of a training, and finds what is left to do.

Nothing here imports diffusers or accelerate, which are slow.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from expo_cli.config import HubConfig, RunOptions, TrainConfig
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import sha256
from expo_cli.contracts.identity import NETWORK, SCHEDULER, TEXT, VAE, model_sha256s
from expo_cli.contracts.kinds import Checkpoint, made_by
from expo_cli.contracts.outputs import Input, check_not_cut
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.shards import parse_shard
from expo_cli.core.learning_rate import learning_rate_factor
from expo_cli.core.objectives import EXPO, Objective
from expo_cli.errors import ContractError, ExpoError, UsageError
from expo_cli.models.families import check_same_noise, check_text_cache
from expo_cli.registry import OBJECTIVES, build, nearest
from expo_cli.stages.common.device import default_device
from expo_cli.stages.common.inputs import check_same_vae, model_inputs
from expo_cli.stages.common.launch import is_first
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.train.records import (
    EVIDENCE,
    TrainingPair,
    TrainingRecord,
    check_mix,
    explored_share,
    visit_order,
)
from expo_cli.stages.train.settings import plan_and_free, resolve

NOWHERE = HubConfig()
THREADS = "threads"
"""What run.json calls the number of threads of each process."""


@dataclass(frozen=True)
class TrainResult:
    path: Path
    learns_from: str
    num_items: int
    steps: int
    plan: dict[str, Any]
    url: str | None = None


@dataclass(frozen=True)
class ReferenceResult:
    """`path` is the cache's folder; a cached value counts at each use."""

    path: Path
    values_computed: int
    values_known: int
    plan: dict[str, Any]


def build_objective(spec: str) -> Objective:
    """Raises UsageError for an unknown objective or an unknown kind of evidence."""
    objective = build(OBJECTIVES, spec)
    kind = objective.learns_from
    if kind not in EVIDENCE:
        raise UsageError(f"{spec} learns from {kind!r}; {nearest(kind, EVIDENCE)}")
    return objective


def read_records(
    kind: str, paths: Sequence[Path], limit: int | None, objective: str
) -> Sequence[TrainingRecord]:
    """The records that the objective learns from. Errors as the reader; UsageError for another kind."""
    wanted = EVIDENCE[kind]
    try:
        return wanted.read(paths, limit)
    except ContractError as error:
        others = {k.record_type: k.noun for k in EVIDENCE.values() if k.noun != wanted.noun}
        for path, (record_type, noun) in itertools.product(paths, others.items()):
            if begins_with(path, record_type):
                raise UsageError(
                    f"{path}: holds {noun}; --objective {objective} learns from {wanted.noun} (spo "
                    "from step pairs, all others from pairs)"
                ) from error
        raise


def begins_with(path: Path, record_type: type) -> bool:
    try:
        return any(True for _ in itertools.islice(jsonl.read(path, record_type), 1))
    except ExpoError:
        return False


def check_reference_cache(
    config: TrainConfig, objective: Objective, options: RunOptions, shard_text: str | None
) -> None:
    """Raises UsageError when flags of the reference cache contradict others."""
    if config.reference_cache is None:
        if shard_text is not None:
            raise UsageError(
                "--shard needs a --reference-cache, which it fills; training itself is not sharded; "
                "use more processes instead (accelerate launch)"
            )
        return
    if not objective.needs_reference:
        raise UsageError(f"--reference-cache: {config.objective} has no reference")
    if shard_text is not None and options.overwrite:
        raise UsageError(f"--overwrite contradicts --shard; remove {config.reference_cache}")


def train_policy(
    paths: Sequence[Path],
    out: Path,
    config: TrainConfig,
    options: RunOptions,
    hub: HubConfig = NOWHERE,
    shard_text: str | None = None,
) -> TrainResult | ReferenceResult:
    """Train from `init_from` on the records of all files and write a checkpoint to `out`.

    With `push_to_hub` it is uploaded at the end, or at once if it is finished already.

    A stopped run continues from its newest complete state and ends with the same bytes; with another
    number of processes but the same global batch, up to the rounding of floats.

    With a shard there is no training: the reference's outputs are added to `reference_cache`.
    """
    notes = Notes(options)
    for path in paths:
        if path == jsonl.STANDARD_STREAM or (path.exists() and not path.is_file()):
            raise UsageError(
                f"{path}: is not a file; pairs refer to files relative to their folder, so write them to a "
                "file there"
            )
    objective = build_objective(config.objective)
    check_reference_cache(config, objective, options, shard_text)
    check_text_cache(config.text_cache, config.init_from)
    shard = None if shard_text is None else parse_shard(shard_text)
    kind = objective.learns_from
    config = resolve(config)
    for path in paths:
        check_not_cut(path)
    records = read_records(kind, paths, config.limit, config.objective)
    check_mix(paths, records, config.mix)
    note_unchecked_records(notes, records)
    plan, free = plan_and_free(config, objective)
    plan |= {f"num_{kind}": len(records)}
    notes.say(
        f"train: {objective} on {len(records)} {kind}, {config.max_train_steps} optimiser steps; "
        f"init-from {config.init_from}, ref {config.ref}"
    )
    if objective.k is not None:
        notes.say(
            f"train: beta {objective.beta:g} is k = {objective.k:g}, the factor of a difference "
            "of mean squared errors"
        )
    if isinstance(objective, EXPO) and objective.alpha:
        note_second_term(notes, objective, records, config)
    if kind == "images" and config.train_batch_size * config.num_processes == 1:
        notes.say(
            "train: note: with one image per forward pass kto's reference point (a mean over them) "
            "is the image's own value if that is above 0: an image that the policy has "
            "learned gets z = 0 and keeps its full weight; use 2 or more to compare images"
        )
    result = TrainResult(out, kind, len(records), config.max_train_steps, plan | free)
    folders = latents_folders(records)
    run = Run(
        command="train",
        plan=plan,
        free=free | {"pairs": list(map(str, paths)), THREADS: torch.get_num_threads()},
        inputs=inputs_of(config, paths, folders),
    )
    checkpoint = Checkpoint(out)
    read = places_read(config, paths, folders)
    if shard is None:
        checkpoint.check(run, read, options.overwrite)
    if options.overwrite or options.dry_run:  # otherwise each step checks the latents that it reads
        check_as_judged(records)
    goes_on = shard is None and not options.overwrite and checkpoint.goes_on(run)
    if goes_on:
        check_schedule(config, checkpoint.last_step())
    if options.dry_run:
        return result
    if shard is not None:
        from expo_cli.stages.train.fill_reference import fill_cache

        folder = Path(config.reference_cache)
        computed, known = fill_cache(records, objective, config, shard, notes)
        notes.say(
            f"train: {computed} values of the reference added to {folder}, {known} were cached"
        )
        return ReferenceResult(folder, computed, known, plan | free)
    finished = checkpoint.is_finished() and not options.overwrite and not goes_on
    if finished:
        checkpoint.remove_rest()
    uploads = hub.push_to_hub and is_first()
    if uploads:
        # Imported here: slow, and not always needed.
        from expo_cli.stages.train.hub import open_repository, upload

        repository = open_repository(hub, out)
    if finished:
        notes.say(f"train: nothing to train, {out} is finished")
    else:
        # Imported here: finished checkpoints do not need diffusers.
        from expo_cli.stages.train.run import train

        if not options.overwrite:
            note_other_threads(notes, checkpoint, run)
        train(records, objective, checkpoint, read, config, options, run, notes)
    if uploads:
        result = replace(result, url=upload(out, repository, notes.quiet))
        notes.say(f"train: uploaded as {result.url}")
    return result


def check_schedule(config: TrainConfig, done: int) -> None:
    """Raises UsageError when the finished steps would have had other learning rates in this run."""

    def factors(steps: int) -> list[float]:
        return [
            learning_rate_factor(config.lr_scheduler, step, steps, config.warmup_ratio)
            for step in range(done)
        ]

    if factors(done) != factors(config.max_train_steps):
        raise UsageError(
            f"--max-train-steps {config.max_train_steps}: with --lr-scheduler {config.lr_scheduler} "
            f"--warmup-ratio {config.warmup_ratio:g} the {done} finished steps would have had "
            "other learning rates; only constant without warm-up can continue: choose another --out"
        )


def note_second_term(
    notes: Notes, objective: EXPO, records: Sequence[TrainingPair], config: TrainConfig
) -> None:
    """Print how much of the stream has a second term, and what alpha is there."""
    share = explored_share(records, visit_order(records, config))
    notes.say(
        f"train: {share:.1%} of the visits are to pairs with samples of both agents; the second term "
        f"is a mean over them, and alpha {objective.alpha:g} makes its gradient there "
        f"{objective.alpha_share:.2%} of the first term's, for a policy that equals the reference"
        if share
        else "train: no pair has samples of both agents, so the second term is 0"
    )


def note_unchecked_records(notes: Notes, records: Sequence[TrainingRecord]) -> None:
    """Print a note on records that lack the digest of the judged latents."""
    unknown = sum(record.digest is None for record in records)
    if unknown:
        notes.say(
            f"train: note: {unknown} of {len(records)} records have no digest, because an older "
            "version of expo or another program wrote them: their latents are not checked"
        )


def note_other_threads(notes: Notes, checkpoint: Checkpoint, run: Run) -> None:
    """Print a note if a training continues with another number of threads, which changes the order of
    additions on a CPU."""
    begun = checkpoint.run()
    before = begun.free.get(THREADS) if begun is not None else None
    if before not in (None, run.free[THREADS]) and default_device().type == "cpu":
        notes.say(
            f"train: note: was begun with {before} threads and continues with {run.free[THREADS]}, which "
            f"changes the last bits of its weights; OMP_NUM_THREADS={before} would not"
        )


class _Drawn(msgspec.Struct):
    """The fields of a Sample that are read."""

    sample_id: str
    digest: str | None = None


def check_as_judged(records: Sequence[TrainingRecord]) -> None:
    """Raises ContractError for a sample whose rollout was drawn again since it was judged.

    Only records are compared; latents are not read."""
    judged: dict[Path, dict[str, str | None]] = {}
    for record in records:
        for ref in record.refs:
            judged.setdefault(record.folder / ref.part, {})[ref.sample_id] = ref.digest
    for latents, digests in judged.items():
        part = latents.with_suffix(".jsonl")
        for number, sample in jsonl.numbered(part, _Drawn) if part.is_file() else ():
            wanted = digests.get(sample.sample_id)
            if None not in (wanted, sample.digest) and wanted != sample.digest:
                raise ContractError(
                    f"{part}:{number}: latents {sample.sample_id} are {sample.digest}, but were "
                    f"{wanted} when they were judged: they were drawn again; make the pairs again"
                )


def inputs_of(
    config: TrainConfig, paths: Sequence[Path], folders: Sequence[Path]
) -> dict[str, str]:
    """Input -> sha256; `folders` have the latents. A full checkpoint also depends on the parts that are
    not trained.

    Raises ContractError when the reference or the latents do not fit the policy.
    """
    parts = (*NETWORK, *TEXT, *SCHEDULER)
    inputs = model_sha256s(
        "init_from", config.init_from, parts if config.use_lora else (*parts, *VAE)
    )
    inputs |= model_sha256s("ref", config.ref, parts)
    check_same_noise(config.init_from, config.ref, "--ref")
    for folder in folders:
        if (made := made_by(folder)) is not None:
            check_same_vae(folder, made, config.init_from)
    return inputs | {f"pairs {n}": sha256(path) for n, path in enumerate(paths, start=1)}


def latents_folders(records: Sequence[TrainingRecord]) -> list[Path]:
    """The folders with tensors of the records."""
    # As strings first: there may be millions of records, and Paths are slow.
    places = {
        (record.folder, part.rpartition("/")[0]) for record in records for part in record.parts
    }
    return sorted({folder / name for folder, name in places})


def places_read(config: TrainConfig, paths: Sequence[Path], folders: Sequence[Path]) -> list[Input]:
    """The paths of all inputs; `folders` have the latents."""
    read = [Input("a pair file", path) for path in paths]
    read += model_inputs("--init-from", config.init_from) + model_inputs("--ref", config.ref)
    read += [Input("the latents of a pair", folder) for folder in folders]
    caches = {"--reference-cache": config.reference_cache, "--text-cache": config.text_cache}
    return read + [Input(flag, Path(folder)) for flag, folder in caches.items() if folder]
