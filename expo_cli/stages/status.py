"""`expo status`: what outputs are, what they lack, and which commands complete them.

All of it stands in `run.json` and in the names of files, so nothing is hashed and torch not needed.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from expo_cli.config import StatusConfig
from expo_cli.contracts.checkpoints import is_finished, saved_steps
from expo_cli.contracts.parts import WITH_LATENTS, missing_parts, ranges, shards_with
from expo_cli.contracts.provenance import PartCount, Run, planned, read_run
from expo_cli.contracts.rollouts import begun_rewards, reward_run_name
from expo_cli.errors import ContractError, ExpoError, Interrupted, UsageError, printable
from expo_cli.stages.common.output_file import run_name

EVALUATION_FILES = ("results.json", "samples.jsonl", "report.html")


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output of the command `made_by`: `done` of `total` units are there, `command` makes the
    others. Missing parts and files are listed, steps only counted. Scores have a `reward`.
    """

    path: Path
    made_by: str
    reward: str | None = None
    what: str
    unit: str
    done: int
    total: int
    complete: bool
    command: str
    missing_parts: list[int] = field(default_factory=list)
    missing_files: list[str] = field(default_factory=list)

    def line(self) -> str:
        if self.complete:
            return f"{self.path}: {self.what}, complete ({self.total} {self.unit})"
        missing = ranges(self.missing_parts) or ", ".join(self.missing_files)
        done = f"{self.path}: {self.what}, {self.done} of {self.total} {self.unit}"
        return f"{done}, missing: {missing}" if missing else done


@dataclass(frozen=True)
class Status:
    outputs: Sequence[Output]

    @property
    def complete(self) -> bool:
        return all(output.complete for output in self.outputs)

    @property
    def exit_code(self) -> int:
        """0, or that of a command that was stopped: what is missing is made by going on."""
        return 0 if self.complete else Interrupted.exit_code

    def text(self, config: StatusConfig) -> str:
        """As the configuration asks for it. Raises UsageError for shards of what has no parts."""
        if config.missing_shards is not None:
            return ",".join(map(str, self.missing_shards(config.missing_shards)))
        if config.json:
            outputs = [asdict(output) for output in self.outputs]
            return json.dumps({"complete": self.complete, "outputs": outputs}, default=str)
        lines = [output.line() for output in self.outputs]
        # Once each: the scores by several rewards come from one command.
        commands = dict.fromkeys(output.command for output in self.outputs if not output.complete)
        if commands:
            lines += ["to complete:", *(f"  {command}" for command in commands)]
        return "\n".join(map(printable, lines))

    def missing_shards(self, count: int) -> list[int]:
        """The shards that have parts to make in any of the outputs."""
        for output in self.outputs:
            if output.unit != "parts":
                raise UsageError(f"--missing-shards: {output.path}, {output.what}, has no parts")
        return shards_with((n for each in self.outputs for n in each.missing_parts), count)


def read_status(paths: Sequence[Path]) -> Status:
    """Raises ExpoError when one of the paths is nothing that expo made."""
    return Status([output for path in paths for output in read_outputs(path)])


def read_outputs(path: Path) -> list[Output]:
    """A folder, a rollout's with the scores in it, or a file.

    Raises ExpoError when expo did not make it, ContractError when its run.json is not whole.
    """
    if path.is_dir():
        run = read_run(path)
    elif path.with_name(run_name(path)).exists():
        run = read_run(path.parent, run_name(path))
    else:
        raise ExpoError(f"{path}: not made by expo, or not begun: there is no {run_name(path)}")
    if run.command not in READERS:
        raise ContractError(f"{path}: its run.json knows nothing of {run.command!r}")
    return READERS[run.command](path, run)


def rollout(folder: Path, run: Run) -> list[Output]:
    scores = folder / "scores"
    num_prompts, drawn_by = (
        planned(run, folder, name, Any) for name in ("num_prompts", "drawn_by")
    )
    what = f"rollout of {num_prompts} prompts by {drawn_by}"
    count = planned(run, folder, "num_parts", PartCount)
    own = in_parts(folder, what, run, count, WITH_LATENTS)
    return [own, *(score(scores, read_run(scores)) if begun_rewards(scores) else [])]


def score(folder: Path, run: Run) -> list[Output]:
    """One output a reward. Raises ExpoError when there is none yet."""
    outputs = []
    labels = begun_rewards(folder)
    if not labels:
        raise ExpoError(f"{folder}: no scores are begun in it; run {command_of(run)}")
    for label in labels:
        reward = read_run(folder, reward_run_name(label))
        what = f"scores {label} by {planned(reward, folder, 'spec', str)}"
        count = planned(run, folder, "num_parts", PartCount)
        outputs.append(in_parts(folder, what, reward, count, [f".{label}.jsonl"], label))
    return outputs


def in_parts(
    folder: Path,
    what: str,
    run: Run,
    count: int,
    suffixes: Sequence[str],
    reward: str | None = None,
) -> Output:
    missing = missing_parts(folder, count, suffixes)
    return Output(
        path=folder,
        made_by=run.command,
        reward=reward,
        what=what,
        unit="parts",
        done=count - len(missing),
        total=count,
        complete=not missing,
        missing_parts=missing,
        command=command_of(run),
    )


def checkpoint(folder: Path, run: Run) -> list[Output]:
    """Steps are done when they are saved in a state."""
    finished, steps = is_finished(folder), planned(run, folder, "max_train_steps", int)
    objective, start = (planned(run, folder, name, str) for name in ("objective", "init_from"))
    return [
        Output(
            path=folder,
            made_by=run.command,
            what=f"checkpoint of {objective} from {start}",
            unit="steps",
            done=steps if finished else max(saved_steps(folder), default=0),
            total=steps,
            complete=finished,
            command=command_of(run),
        )
    ]


def reference_cache(folder: Path, run: Run) -> list[Output]:
    """It is never short of anything: what it lacks, training computes."""
    what = f"values of a reference in {run.plan['precision']}"
    return [in_files(folder, what, run, sorted(folder.glob("values-*.safetensors")))]


def evaluation(folder: Path, run: Run) -> list[Output]:
    what = f"evaluation of {', '.join(planned(run, folder, 'policies', dict[str, str]))}"
    return [in_files(folder, what, run, [folder / name for name in EVALUATION_FILES])]


def pairs(path: Path, run: Run) -> list[Output]:
    return [in_files(path, f"{run.counts.get('num_pairs')} pairs", run, [path])]


def prompts(path: Path, run: Run) -> list[Output]:
    return [in_files(path, f"{run.counts.get('num_train')} prompts", run, [path])]


def in_files(path: Path, what: str, run: Run, files: Sequence[Path]) -> Output:
    missing = [file.name for file in files if not file.exists()]
    return Output(
        path=path,
        made_by=run.command,
        what=what,
        unit="files" if len(files) > 1 else "file",
        done=len(files) - len(missing),
        total=len(files),
        complete=not missing,
        missing_files=missing,
        command=command_of(run),
    )


READERS: dict[str, Callable[[Path, Run], list[Output]]] = {
    "prep-prompts": prompts,
    "rollout": rollout,
    "score": score,
    "make-pairs": pairs,
    "train": checkpoint,
    "reference-cache": reference_cache,
    "evaluate": evaluation,
}


def command_of(run: Run) -> str:
    """The command line of a run, to give again from where it was given.

    Without --shard, which is one worker's own, and --overwrite, which would remove what is done.
    """
    arguments = run.arguments
    if arguments[:1] != [run.command]:  # it was called from Python
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
