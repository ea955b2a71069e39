"""`expo make-pairs --export`: writes pairs with their images in a layout of other programs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions
from expo_cli.contracts import jsonl
from expo_cli.contracts.files import sha256
from expo_cli.contracts.identity import VAE, model_sha256s
from expo_cli.contracts.kinds import ExportParts
from expo_cli.contracts.outputs import Input
from expo_cli.contracts.provenance import Run
from expo_cli.contracts.shards import num_parts, parse_shard
from expo_cli.errors import ContractError, UsageError
from expo_cli.registry import EXPORTS, build
from expo_cli.stages.common.inputs import check_overwrite, model_inputs
from expo_cli.stages.common.progress import Notes
from expo_cli.stages.common.stopping import stop_on_signal
from expo_cli.stages.preferences.pair_images import PairImages
from expo_cli.stages.preferences.protocol import Export, ExportedPair
from expo_cli.stages.train.records import TrainingPair, read_pairs


@dataclass(frozen=True)
class ExportResult:
    path: Path
    plan: dict[str, Any]
    num_pairs: int
    parts_written: int
    parts_missing: int


def export_pairs(
    inputs: Sequence[Path],
    out: Path,
    config: MakePairsConfig,
    images: PairImagesConfig,
    options: RunOptions,
    shard_text: str,
) -> ExportResult:
    """Write the missing parts of this shard into the folder `out`.

    Raises ContractError for bad pairs or images, UsageError for flags that do not fit,
    Interrupted, between two parts, when a signal asks to stop.
    """
    notes = Notes(options)
    shard = parse_shard(shard_text)
    export: Export = build(EXPORTS, images.export)
    if out == jsonl.STANDARD_STREAM:
        raise UsageError("--out - contradicts --export, which writes a folder")
    for field in fields(config):
        if field.name not in ("seed", "limit") and getattr(config, field.name) != field.default:
            flag = field.name.replace("_", "-")
            raise UsageError(f"--{flag} contradicts --export: the pairs exist already")
    if any(path.resolve().is_relative_to(out.resolve()) for path in inputs):
        raise UsageError(f"--out {out}: contains an input; choose a separate folder for the export")
    pairs = read_pairs(inputs, config.limit)
    require_distinct_samples(pairs)
    count = num_parts(len(pairs), images.part_size)
    plan = {
        "export": images.export,
        "dtype": images.dtype,
        "batch_size": images.batch_size,
        "part_size": images.part_size,
        "limit": config.limit,
        "num_pairs": len(pairs),
        "num_parts": count,
    }
    run = Run(
        command="make-pairs",
        plan=plan,
        free={"vae": images.vae, "pairs": list(map(str, inputs))},
        inputs={f"pairs {n}": sha256(path) for n, path in enumerate(inputs, start=1)}
        | (model_sha256s("vae", images.vae, VAE) if images.vae else {}),
    )
    read = [Input("an input", path) for path in inputs] + model_inputs("--vae", images.vae)
    read += [Input("the latents of an input", folder) for folder in latents_read(pairs)]
    output = ExportParts(out, run)
    check_overwrite(options, shard)
    output.check(run, read, options.overwrite)
    if options.dry_run:
        missing = count if options.overwrite else len(output.missing())
        return ExportResult(out, plan, len(pairs), 0, missing)
    with output.begun(run, read, options.overwrite):
        paths = [out / output.part_files(part)[0] for part in range(count)]
        todo = [part for part in output.missing() if shard.takes(part)]
        reader = PairImages(images, export.images)
        of_prompt = Counter(item.pair.prompt_id for item in pairs)
        with stop_on_signal() as stop, notes.bar(len(todo), "parts") as bar:
            for part in todo:
                first = part * images.part_size
                chosen = pairs[first : first + images.part_size]
                exported = with_images(chosen, first, of_prompt, reader)
                output.claim(run)
                export.write(paths[part], exported)
                bar.advance()
                stop.check()
        missing = output.missing()
        if not missing:
            export.finish(out, paths)
    notes.say(
        f"make-pairs: {len(pairs)} pairs exported in {count} parts, {len(missing)} of them missing"
    )
    return ExportResult(out, plan, len(pairs), len(todo), len(missing))


def latents_read(pairs: Sequence[TrainingPair]) -> list[Path]:
    """The folders of the samples of all pairs."""
    refs = ((item.folder, ref) for item in pairs for ref in (item.pair.winner, item.pair.loser))
    return sorted({(folder / ref.part).parent for folder, ref in refs})


def with_images(
    pairs: Sequence[TrainingPair], first: int, of_prompt: Mapping[str, int], reader: PairImages
) -> list[ExportedPair]:
    """The pairs, numbered from `first`, with their images."""
    files = reader.files(
        (item.folder, ref) for item in pairs for ref in (item.pair.winner, item.pair.loser)
    )
    return [
        ExportedPair(
            number=number,
            num_of_prompt=of_prompt[item.pair.prompt_id],
            pair=item.pair,
            winner=files[item.pair.winner.sample_id],
            loser=files[item.pair.loser.sample_id],
        )
        for number, item in enumerate(pairs, start=first)
    ]


def require_distinct_samples(pairs: Sequence[TrainingPair]) -> None:
    """Raises ContractError when two samples have the same id, which readers would take for one image."""
    parts: dict[str, Path] = {}
    for item in pairs:
        for ref in (item.pair.winner, item.pair.loser):
            part = item.folder / ref.part
            if parts.setdefault(ref.sample_id, part) != part:
                raise ContractError(
                    f"{part}: {ref.sample_id} is another sample in {parts[ref.sample_id]}; export "
                    "their pairs to separate folders"
                )
