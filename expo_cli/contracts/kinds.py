"""The kinds of output, and the files of each.

| made by | output | files |
|---|---|---|
| prep-prompts | `Prompts` | one file |
| rollout | `RolloutParts` | `part-N.jsonl .safetensors`, with step candidates `.steps.*`, `images/` |
| score | `ScoreParts`, one per reward | `part-N.LABEL.jsonl`, `part-N.LABEL.safetensors` (embeddings) |
| make-pairs | `Pairs` | one file |
| make-pairs --layout | `LatentParts` | `part-N.jsonl .safetensors` |
| make-pairs --export | `ExportParts` | the parts of the export, then the files shared by all parts |
| train | `Checkpoint` | a pipeline or a LoRA, `metrics.jsonl`, a card, `trackers/`; `state/` while training |
| evaluate | `Evaluation` | `results.json`, `samples.jsonl`, `report.html`, `plots/` |
| text-cache, reference-cache | `Cache` | the entries computed so far |
"""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import alone, cannot_be_written, lock_path, remove_abandoned
from expo_cli.contracts.outputs import (
    File,
    Files,
    Output,
    Parts,
    check_same_run,
    names_in,
    remove_any,
)
from expo_cli.contracts.provenance import (
    RUN,
    PartCount,
    Run,
    as_written,
    planned,
    read_run,
    write_run,
)
from expo_cli.contracts.shards import part_name
from expo_cli.contracts.sources import ADAPTER_CONFIG, MODEL_INDEX
from expo_cli.contracts.states import saved_steps, state_folder, states_folder
from expo_cli.errors import ContractError

PART = re.compile(r"part-\d{5,7}\.(jsonl|safetensors|run\.json|steps\.jsonl|steps\.safetensors)")
# Names made by `sample_id`.
KEPT_IMAGE = re.compile(r".+-(main|explore)-\d+-\d+\.(png|webp|jpg)")
# A label is written between two dots of a file name, so it contains no dot.
LABEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
IMAGES = "images"
SCORES = "scores"
# Files of a checkpoint, apart from the folders of a pipeline's parts.
MODEL_CARD = "README.md"
METRICS = "metrics.jsonl"
TRACKERS = "trackers"
ADAPTER_FILES = (
    "pytorch_lora_weights.safetensors",
    "kohya_lora.safetensors",
    ADAPTER_CONFIG,
)
PIPELINE_PARTS = re.compile(
    r"unet|transformer|vae|scheduler|(text_encoder|tokenizer)(_\d)?|feature_extractor|image_encoder"
    r"|safety_checker"
)
# The setting of a training's plan that a longer run may raise.
STEPS = "max_train_steps"
EVALUATION_FILES = ("results.json", "samples.jsonl", "report.html")


def named(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Files of a folder whose names match `pattern`."""
    for name in sorted(names_in(folder)):
        if pattern.fullmatch(name):
            yield folder / name


class Prompts(File):
    def __init__(self, path: Path) -> None:
        super().__init__(path, "prep-prompts")


class Pairs(File):
    def __init__(self, path: Path) -> None:
        super().__init__(path, "make-pairs")


class _ImagePair(msgspec.Struct):
    winner_file_name: str
    loser_file_name: str


class _Image(msgspec.Struct):
    image: str | None = None


class RolloutParts(Parts):
    """Records, latents, step candidates and images."""

    def __init__(self, path: Path, run: Run) -> None:
        super().__init__(path, "rollout", planned(run, path, "num_parts", PartCount))
        self.has_steps = run.plan.get("num_step_candidates") is not None
        self.has_images = run.plan.get("images", "none") != "none"

    def part_files(self, part: int) -> list[str]:
        endings = [".jsonl", ".safetensors"]
        if self.has_steps:
            endings += [".steps.jsonl", ".steps.safetensors"]
        return [part_name(part) + ending for ending in endings]

    def missing(self) -> list[int]:
        lacking = set(super().missing())
        if self.has_images:
            kept = names_in(self.path / IMAGES)
            whole = (n for n in range(self.count) if n not in lacking)
            lacking |= {n for n in whole if not self.has_its_images(n, kept)}
        return sorted(lacking)

    def has_its_images(self, part: int, kept: set[str]) -> bool:
        records = jsonl.read(self.path / self.part_files(part)[0], _Image)
        return all(
            record.image is None
            or record.image.removeprefix(f"{IMAGES}/") in kept
            or (self.path / record.image).exists()
            for record in records
        )

    def own_files(self) -> Iterator[Path]:
        yield from named(self.path, PART)
        yield from named(self.path / IMAGES, KEPT_IMAGE)


class LatentParts(Parts):
    """Latents of imported images."""

    def __init__(self, path: Path, run: Run) -> None:
        super().__init__(path, "make-pairs", planned(run, path, "num_parts", PartCount))

    def part_files(self, part: int) -> list[str]:
        return [f"{part_name(part)}.jsonl", f"{part_name(part)}.safetensors"]

    def own_files(self) -> Iterator[Path]:
        return named(self.path, PART)


class ScoreFolder(Output):
    """A folder with the scores of several rewards; all its files belong to their `ScoreParts`."""

    remedy = "choose another --out, or --overwrite all scores in the folder"

    def __init__(self, path: Path) -> None:
        super().__init__(path, "score")

    def labels(self) -> list[str]:
        """Labels of the rewards begun in the folder. Raises ContractError for an invalid label."""
        ending = f".{RUN}"
        return self.checked(
            name.removesuffix(ending)
            for name in names_in(self.path)
            if name.endswith(ending) and name != RUN
        )

    def scored(self) -> list[str]:
        """Labels of the scores in the folder; errors as `labels`."""
        return self.checked(path.name.split(".", 2)[1] for path in self.path.glob("part-*.*.jsonl"))

    def checked(self, labels: Iterable[str]) -> list[str]:
        found = sorted(set(labels))
        for label in found:
            if not LABEL.fullmatch(label):
                raise ContractError(
                    f"{self.path}: holds scores of {label!r}, which is not a valid label"
                )
        return found

    def own_files(self) -> Iterator[Path]:
        return named(self.path, re.compile(r"part-\d{5,7}\.[^.]+\.(jsonl|safetensors)"))


class ScoreParts(Parts):
    """The scores of one reward, with their provenance in LABEL.run.json."""

    def __init__(self, path: Path, label: str, count: int) -> None:
        super().__init__(path, "score", count)
        self.label = label
        self.remedy = f"choose another label (LABEL={label}...), or --overwrite to score again"

    @property
    def run_path(self) -> Path:
        return self.path / f"{self.label}.{RUN}"

    def check_empty(self) -> None:
        """Does nothing: the folder is shared by all rewards, and `ScoreFolder` checks it."""

    def part_files(self, part: int) -> list[str]:
        return [f"{part_name(part)}.{self.label}.jsonl"]

    def missing(self) -> list[int]:
        """Parts without scores, or without embeddings where other parts have them."""
        there, ending = names_in(self.path), f".{self.label}.safetensors"
        lacking = set(super().missing())
        if any(name.endswith(ending) for name in there):
            lacking |= {n for n in range(self.count) if part_name(n) + ending not in there}
        return sorted(lacking)

    def own_files(self) -> Iterator[Path]:
        label = re.escape(self.label)
        return named(self.path, re.compile(rf"part-\d{{5,7}}\.{label}\.(jsonl|safetensors)"))


# Export name -> the path of part `part` of `count`.
def pick_a_pic_part(part: int, count: int) -> str:
    return f"data/train-{part:05d}-of-{count:05d}.parquet"


def imagefolder_part(part: int, count: int) -> str:
    return f"images/{part_name(part)}.jsonl"


def own_part(part: int, count: int) -> str:
    return f"parts/{part_name(part)}"


# By the export's name: the file of a part, the files that belong to parts, and those of all parts.
EXPORTED = {
    "pick-a-pic": (
        pick_a_pic_part,
        (("data", re.compile(r"train-\d{5,7}-of-\d{5,7}\.parquet")),),
        (),
    ),
    "imagefolder": (
        imagefolder_part,
        (("images", re.compile(r"part-\d{5,7}(\.jsonl)?")),),
        ("metadata.jsonl",),
    ),
}
OWN_EXPORT = (own_part, (("parts", re.compile(r"part-\d{5,7}(\..+)?")),), ())


class ExportParts(Parts):
    """Pairs with their images, in a layout of other programs."""

    def __init__(self, path: Path, run: Run) -> None:
        super().__init__(path, "make-pairs", planned(run, path, "num_parts", PartCount))
        name = planned(run, path, "export", str).partition(":")[0]
        if name not in EXPORTED and "." not in name:
            raise ContractError(f"{path}: its run.json names an unknown export {name!r}")
        self.part_file, self.patterns, self.of_all = EXPORTED.get(name, OWN_EXPORT)

    def part_files(self, part: int) -> list[str]:
        return [self.part_file(part, self.count)]

    def is_whole(self, part: int, there: set[str]) -> bool:
        listing = self.path / self.part_files(part)[0]
        if not listing.exists() or listing.suffix != ".jsonl":
            return listing.exists()
        return all(
            (self.path / name).exists()
            for row in jsonl.read(listing, _ImagePair)
            for name in (row.winner_file_name, row.loser_file_name)
        )

    def lacking_of_all(self) -> list[str]:
        """Missing files among those that all parts share."""
        return [name for name in self.of_all if not (self.path / name).exists()]

    def own_files(self) -> Iterator[Path]:
        for folder, pattern in self.patterns:
            yield from named(self.path / folder, pattern)
        yield from (self.path / name for name in self.of_all if (self.path / name).exists())


class Checkpoint(Files):
    """A pipeline or LoRA that diffusers loads, with its states during training."""

    remedy = (
        "give the settings it was begun with (the global batch is processes x --train-batch-size x "
        "--gradient-accumulation-steps), choose another --out, or --overwrite to start again"
    )

    def __init__(self, path: Path) -> None:
        super().__init__(path, "train")

    def is_finished(self) -> bool:
        run = self.run()
        if run is not None and run.is_older:
            return any((self.path / name).exists() for name in (MODEL_INDEX, ADAPTER_CONFIG))
        return super().is_finished()

    def own_files(self) -> Iterator[Path]:
        """Its files and folders on disk."""
        names = (MODEL_INDEX, *ADAPTER_FILES, METRICS, MODEL_CARD)
        yield from (self.path / name for name in names if (self.path / name).exists())
        if states_folder(self.path).exists():
            yield states_folder(self.path)
        yield from (path for path in named(self.path, PIPELINE_PARTS) if path.is_dir())

    def remove(self) -> None:
        """Also remove the tracker logs, which do not count as an output on their own."""
        with cannot_be_written(self.path):
            remove_any(self.path / TRACKERS)
        super().remove()

    def last_step(self) -> int:
        """Step of the newest state, 0 if there is none."""
        return max(saved_steps(self.path), default=0)

    def is_published(self, path: Path) -> bool:
        """Whether a file may be uploaded: not states, unfinished files or files with local paths."""
        folders = {states_folder(self.path), self.path / TRACKERS}
        ours = path == self.run_path or not folders.isdisjoint(path.parents)
        return not ours and not path.name.endswith((".partial", ".lock"))

    def goes_on(self, run: Run) -> bool:
        """Whether it is finished, and its last state is kept, so that `run` can take more steps."""
        begun = self.run()
        if begun is None or not self.is_finished():
            return False
        done = begun.plan.get(STEPS)
        return done == self.last_step() and done < run.plan[STEPS]

    def check_same(self, begun: Run, run: Run) -> None:
        """As `Output.check_same`, but more steps are allowed if a state is left to continue from."""
        done, wanted = begun.plan.get(STEPS), run.plan.get(STEPS)
        if done == wanted or begun.is_older or not self.is_finished() or wanted < done:
            super().check_same(begun, run)
            return
        super().check_same(begun, replace(run, plan=run.plan | {STEPS: done}))
        if not self.goes_on(run):
            raise ContractError(
                f"{self.path}: was begun with {STEPS}={done!r}, not {wanted!r}, and is finished "
                "without a state to continue from (--keep-state keeps it); "
                "choose another --out, or --overwrite to start again"
            )

    def go_on(self, run: Run) -> None:
        """Mark a finished checkpoint as being trained further."""
        if self.goes_on(run):
            write_run(self.path, run)

    def keep_states(self, steps: Collection[int]) -> None:
        """Remove the states of all other steps."""
        for step in set(saved_steps(self.path)) - set(steps):
            remove_any(state_folder(self.path, step))

    def remove_states(self, run: Run) -> None:
        """Remove all states of a finished checkpoint, or all but the last one if `run` keeps it."""
        states = states_folder(self.path)
        if not states.exists():
            return
        with cannot_be_written(states):
            if not run.free.get("keep_state"):
                remove_any(states)
                return
            last = state_folder(self.path, self.last_step()).name
            for name in names_in(states) - {last}:
                remove_any(states / name)

    def remove_rest(self) -> None:
        """Remove what a run that was killed after its last file left in a finished checkpoint.

        Raises ExpoError when that run is still active.
        """
        remove_abandoned(self.path)
        if states_folder(self.path).exists() or lock_path(self.path).exists():
            with alone(self.path):
                self.remove_states(self.run())


class Evaluation(Files):
    """An evaluation takes seconds, so an existing one is always replaced."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "evaluate")

    def claim(self, run: Run) -> bool:
        created = not self.run_path.exists()
        write_run(self.path, run)
        return created

    def check_same(self, begun: Run, run: Run) -> None:
        """Does nothing: an existing evaluation is replaced."""

    def names(self, run: Run) -> list[str]:
        """Names of all its files."""
        return run.files or list(EVALUATION_FILES)

    def own_files(self) -> Iterator[Path]:
        yield from (self.path / name for name in EVALUATION_FILES if (self.path / name).exists())
        yield from named(self.path / "plots", re.compile(r"[a-z0-9-]+\.(png|svg|pdf)"))


class Cache(Output):
    """A folder to which later runs with the same plan add entries; it is never incomplete."""

    def __init__(self, path: Path, command: str, flag: str) -> None:
        super().__init__(path, command)
        self.flag = flag
        self.remedy = f"choose another {flag}"

    def own_files(self) -> Iterator[Path]:
        pattern = (
            "values-*.safetensors" if self.command == "reference-cache" else "??/*.safetensors"
        )
        yield from sorted(self.path.glob(pattern))

    def use(self, run: Run) -> None:
        """Begin the cache, or check that it has the same plan.

        Raises ContractError, which names the flag, for another plan or something else than a cache.
        """
        # The order matters: another worker may begin it meanwhile, and writes run.json first.
        filled = next(self.own_files(), None) is not None
        begun = self.run()
        if begun is None and filled:
            raise ContractError(f"{self.path}: has no run.json that describes it; {self.remedy}")
        if begun is not None and begun.command != self.command:
            raise ContractError(
                f"{self.path}: is the output of `expo {begun.command}`, not a {self.command}; "
                f"{self.remedy}"
            )
        self.claim(run)

    def check_same(self, begun: Run, run: Run) -> None:
        if not begun.is_older:
            check_same_run(self.path, begun, as_written(run), self.remedy)
            return
        # Its entries are named by digests of another kind, and would never be found.
        raise ContractError(f"{self.path}: was made by an older version of expo; {self.remedy}")


def write_part_run(folder: Path, part: int, run: Run) -> None:
    """Write the provenance of one part: counts and seconds."""
    write_run(folder, run, f"{part_name(part)}.{RUN}")


def part_counts(folder: Path, part: int) -> dict[str, Any]:
    """The counts of a part; empty if expo did not make it."""
    name = f"{part_name(part)}.{RUN}"
    return read_run(folder, name).counts if (folder / name).exists() else {}


def made_by(folder: Path) -> Run | None:
    """The run that made a folder; None if there is no run.json.

    Raises ContractError when its run.json is not valid.
    """
    return read_run(folder) if (folder / RUN).exists() else None


def rollout_parts(folder: Path) -> tuple[RolloutParts, Run]:
    """Raises ExpoError when there is no such folder, ContractError when it is not a rollout."""
    run = read_run(folder)
    if run.command != "rollout":
        raise ContractError(f"{folder}: is the output of `expo {run.command}`, not of rollout")
    return RolloutParts(folder, run), run


def score_parts(folder: Path) -> list[tuple[ScoreParts, Run]]:
    """The parts and the run of each reward begun in a score folder, sorted by label."""
    scores = ScoreFolder(folder)
    labels = scores.labels()
    if not labels:
        return []
    count = planned(read_run(folder), folder, "num_parts", PartCount)
    found = (ScoreParts(folder, label, count) for label in labels)
    return [(parts, read_run(folder, parts.run_path.name)) for parts in found]


def latents_folder(pairs: Path) -> Path:
    """The folder of the latents of imported pairs: `pairs.latents` next to `pairs.jsonl`."""
    return pairs.with_name(f"{pairs.stem}.latents")


def folder_parts(folder: Path, run: Run) -> Parts:
    """The parts of a folder made by `expo make-pairs`."""
    return ExportParts(folder, run) if "export" in run.plan else LatentParts(folder, run)
