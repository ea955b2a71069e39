"""Fills the reference cache before training: the inference-only jobs of `expo train --shard`."""

from collections.abc import Sequence
from pathlib import Path

from expo_cli.config import TrainConfig
from expo_cli.contracts.shards import Shard, num_parts
from expo_cli.core.objectives import Objective
from expo_cli.models.loading import load_model
from expo_cli.stages.common.device import default_device, resolve_dtype
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.common.stopping import stop_on_signal
from expo_cli.stages.common.text_cache import ask_ahead
from expo_cli.stages.train.records import EVIDENCE, TrainingRecord
from expo_cli.stages.train.reference import Reference, ReferenceCache, cache_run
from expo_cli.stages.train.settings import global_batch_size

# Visits per part; a shard takes whole parts, and a cache file holds one.
PART_VISITS = 256


def fill_cache(
    records: Sequence[TrainingRecord],
    objective: Objective,
    config: TrainConfig,
    shard: Shard,
    notes: Notes,
) -> tuple[int, int]:
    """Compute this shard's missing values of the reference for the coming training; returns how many
    were computed and how many were cached.

    The forward passes are those of training, so that the values are bitwise equal. Raises
    Interrupted, between two batches, when a signal asks to stop; finished parts are kept.
    """
    device = default_device()
    dtype = resolve_dtype(config.mixed_precision, device)
    kind = objective.learns_from
    stream = EVIDENCE[kind].stream
    count = config.max_train_steps * global_batch_size(config)
    count = min(count, stream.distinct_visits(records, objective, config) or count)
    batch = config.train_batch_size
    size = max(1, PART_VISITS // batch) * batch
    parts = [part for part in range(num_parts(count, size)) if shard.takes(part)]
    starts = {part: range(part * size, min((part + 1) * size, count), batch) for part in parts}
    prompts = (
        prompt
        for part in parts
        for prompt in stream.prompts(records, objective, config, part * size, size)
    )
    text = ask_ahead(config.text_cache, config.ref, device, dtype, prompts, notes)
    model = load_model(config.ref, device, dtype)
    if text is not None:
        model.text = text
    folder = Path(config.reference_cache)
    cache = ReferenceCache(folder, cache_run(config, model, dtype, kind))
    reference = Reference(lambda: model, cache=cache)
    data = stream(records, objective, model, reference, config)
    total = sum(map(len, starts.values()))
    notes.say(f"train: {total} batches of visits for {config.ref}, {model.dtype} on {device}")
    with stop_on_signal() as stop, notes.bar(total, "batches") as bar:
        for part in parts:
            for start in starts[part]:
                data.refer(start, batch)
                bar.advance()
                stop.check()
            cache.save()
    return reference.num_computed, cache.num_found
