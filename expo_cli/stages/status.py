"""`expo status`: shows what outputs are, what is missing, and which commands complete them.

`contracts.kinds` decides it from run.json and file names, without hashing and without torch.
"""

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from expo_cli.config import StatusConfig
from expo_cli.contracts.kinds import (
    SCORES,
    Cache,
    Checkpoint,
    Evaluation,
    LatentParts,
    Pairs,
    Prompts,
    RolloutParts,
    folder_parts,
    latents_folder,
    score_parts,
)
from expo_cli.contracts.outputs import File, Parts, check_not_cut, run_path_of
from expo_cli.contracts.provenance import Run, planned, read_run
from expo_cli.contracts.shards import ranges, shards_with
from expo_cli.errors import ContractError, ExpoError, Interrupted, UsageError, printable

# Number of missing files to print; --json lists all.
SHOWN_FILES = 8


@dataclass(frozen=True, kw_only=True)
class Part:
    """One output of the command `made_by`: `done` of `total` units exist, and `command` makes the
    others. Missing parts and files are listed, steps only counted. Scores have a `reward`. For
    outputs that are not begun, the command and the total are unknown.
    """

    path: Path
    made_by: str | None
    reward: str | None = None
    what: str
    unit: str
    done: int
    total: int | None
    complete: bool
    command: str
    missing_parts: list[int] = field(default_factory=list)
    missing_files: list[str] = field(default_factory=list)

    def line(self) -> str:
        if self.total is None:
            return f"{self.path}: {self.what}"
        if self.complete:
            return f"{self.path}: {self.what}, complete ({self.total} {self.unit})"
        files = self.missing_files
        shown = ", ".join([*files[:SHOWN_FILES], *(["..."] if len(files) > SHOWN_FILES else [])])
        missing = ranges(self.missing_parts) or shown
        done = f"{self.path}: {self.what}, {self.done} of {self.total} {self.unit}"
        return f"{done}, missing: {missing}" if missing else done


@dataclass(frozen=True)
class Status:
    outputs: Sequence[Part]

    @property
    def complete(self) -> bool:
        return all(output.complete for output in self.outputs)

    @property
    def exit_code(self) -> int:
        """0 if complete, else that of a stopped command, which is continued in the same way."""
        return 0 if self.complete else Interrupted.exit_code

    def text(self, config: StatusConfig) -> str:
        """The status in the requested form. Raises UsageError for shards of an output without parts."""
        if config.missing_shards is not None:
            return ",".join(map(str, self.missing_shards(config.missing_shards)))
        if config.json:
            outputs = [asdict(output) for output in self.outputs]
            return json.dumps({"complete": self.complete, "outputs": outputs}, default=str)
        lines = [output.line() for output in self.outputs]
        # Distinct ones: scores by several rewards come from the same command.
        commands = dict.fromkeys(output.command for output in self.outputs if not output.complete)
        if commands:
            lines += ["to complete:", *(f"  {command}" for command in commands)]
        return "\n".join(map(printable, lines))

    def missing_shards(self, count: int) -> list[int]:
        """The shards with missing parts in any of the outputs."""
        for output in self.outputs:
            if output.unit != "parts":
                raise UsageError(f"--missing-shards: {output.path}, {output.what}, has no parts")
        if any(output.total is None for output in self.outputs):
            return list(range(count))
        return shards_with((n for each in self.outputs for n in each.missing_parts), count)


def read_status(paths: Sequence[Path]) -> Status:
    """Raises ExpoError when expo did not make one of the paths."""
    return Status([output for path in paths for output in read_outputs(path)])


def read_outputs(path: Path) -> list[Part]:
    """The outputs at a path: a file, or a folder; for a rollout also the scores in it.

    Raises ExpoError when expo did not make it, ContractError when its run.json is not valid.
    """
    beside = run_path_of(path)
    if path.is_dir():
        run = read_run(path)
    elif beside.exists():
        run = read_run(path.parent, beside.name)
    elif os.path.lexists(path):
        raise ExpoError(f"{path}: not made by expo: there is no {beside.name}")
    else:
        return [not_begun(path)]
    readers = FOLDERS if path.is_dir() else FILES
    if run.command not in readers:
        raise ContractError(f"{path}: its run.json names an unknown command {run.command!r}")
    return readers[run.command](path, run)


def not_begun(path: Path) -> Part:
    return Part(
        path=path,
        made_by=None,
        what="not begun",
        unit="parts",
        done=0,
        total=None,
        complete=False,
        command=f"the command that makes {path}",
    )


def rollout(folder: Path, run: Run) -> list[Part]:
    parts = RolloutParts(folder, run)
    num_prompts, drawn_by = (
        planned(run, folder, name, Any) for name in ("num_prompts", "drawn_by")
    )
    own = in_parts(parts, f"rollout of {num_prompts} prompts by {drawn_by}", run)
    return [own, *scores_of(folder / SCORES)]


def scores(folder: Path, run: Run) -> list[Part]:
    """One output per reward."""
    begun = replace(not_begun(folder), made_by=run.command, command=command_of(run))
    return scores_of(folder) or [begun]


def scores_of(folder: Path) -> list[Part]:
    return [
        replace(
            in_parts(parts, f"scores {parts.label} by {planned(run, folder, 'spec', str)}", run),
            reward=parts.label,
        )
        for parts, run in score_parts(folder)
    ]


def in_parts(parts: Parts, what: str, run: Run) -> Part:
    missing = parts.missing()
    return Part(
        path=parts.path,
        made_by=run.command,
        what=what,
        unit="parts",
        done=parts.count - len(missing),
        total=parts.count,
        complete=not missing,
        missing_parts=missing,
        command=command_of(run),
    )


def latents_or_export(folder: Path, run: Run) -> list[Part]:
    """A folder made by `expo make-pairs`."""
    parts = folder_parts(folder, run)
    if isinstance(parts, LatentParts):
        count = planned(run, folder, "num_images", int)
        return [in_parts(parts, f"latents of {count} images", run)]
    what = f"export of {planned(run, folder, 'num_pairs', int)} pairs"
    found = in_parts(parts, what, run)
    lacking = parts.lacking_of_all()
    return [replace(found, complete=found.complete and not lacking, missing_files=lacking)]


def checkpoint(folder: Path, run: Run) -> list[Part]:
    """Steps count as done if a state has them, or if training is finished and its files exist."""
    found = Checkpoint(folder)
    finished, steps = found.is_finished(), planned(run, folder, "max_train_steps", int)
    objective, start = (planned(run, folder, name, str) for name in ("objective", "init_from"))
    return [
        Part(
            path=folder,
            made_by=run.command,
            what=f"checkpoint of {objective} from {start}",
            unit="steps",
            done=steps if finished else found.last_step(),
            total=steps,
            complete=finished,
            missing_files=found.missing(run),
            command=command_of(run),
        )
    ]


def cache(folder: Path, run: Run) -> list[Part]:
    """A cache is always complete: missing entries are computed on demand."""
    what = {"reference-cache": "values of a reference", "text-cache": "embeddings of prompts"}
    files = list(Cache(folder, run.command, "").own_files())
    precision = planned(run, folder, "precision", str)
    return [in_files(folder, f"{what[run.command]} in {precision}", run, len(files), [])]


def evaluation(folder: Path, run: Run) -> list[Part]:
    what = f"evaluation of {', '.join(planned(run, folder, 'policies', dict[str, str]))}"
    found = Evaluation(folder)
    return [in_files(folder, what, run, len(found.names(run)), found.missing(run))]


def pairs(path: Path, run: Run) -> list[Part]:
    """Pairs; imported ones together with their latents."""
    own = single_file(Pairs(path), "pairs", run)
    if "layout" not in run.plan:
        return [own]
    return [own, *read_outputs(latents_folder(path))]


def prompts(path: Path, run: Run) -> list[Part]:
    return [single_file(Prompts(path), "prompts", run)]


def single_file(file: File, unit: str, run: Run) -> Part:
    """Raises ContractError when the file was cut."""
    check_not_cut(file.path)
    missing = [] if file.is_finished() else [file.path.name]
    what = unit if run.lines is None else f"{run.lines} {unit}"
    return in_files(file.path, what, run, 1, missing)


def in_files(path: Path, what: str, run: Run, total: int, missing: list[str]) -> Part:
    return Part(
        path=path,
        made_by=run.command,
        what=what,
        unit="file" if total == 1 else "files",
        done=total - len(missing),
        total=total,
        complete=not missing,
        missing_files=missing,
        command=command_of(run),
    )


# Command -> function that reads its outputs.
FOLDERS: dict[str, Callable[[Path, Run], list[Part]]] = {
    "rollout": rollout,
    "score": scores,
    "make-pairs": latents_or_export,
    "train": checkpoint,
    "reference-cache": cache,
    "text-cache": cache,
    "evaluate": evaluation,
}
FILES: dict[str, Callable[[Path, Run], list[Part]]] = {
    "prep-prompts": prompts,
    "make-pairs": pairs,
}


def command_of(run: Run) -> str:
    """The command line that continues a run, from the folder in which it was started.

    Without --shard, which differs by worker, and --overwrite, which would remove finished work.
    """
    arguments = run.arguments
    if arguments[:1] != [run.command]:  # called from Python
        return f"the same `expo {run.command}` again"
    kept = [
        argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
        if before != "--shard"
        and argument not in ("--shard", "--overwrite")
        and not argument.startswith("--shard=")
    ]
    processes = run.free.get("num_processes", 1)
    launch = ["accelerate", "launch", "--multi_gpu", "--num_processes", str(processes)]
    return shlex.join([*(["expo"] if processes == 1 else [*launch, "-m", "expo_cli"]), *kept])
