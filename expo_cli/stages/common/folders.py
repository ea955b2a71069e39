"""Folders that several workers make together: begun once, continued only by the same run."""

import json
import shutil
from pathlib import Path

from expo_cli.config import RunOptions
from expo_cli.contracts.files import remove_abandoned
from expo_cli.contracts.parts import START_ANEW, Shard, check_same_plan
from expo_cli.contracts.provenance import Run, read_run, run_path, write_run
from expo_cli.errors import ContractError, ExpoError, UsageError


def clear_if_asked(folder: Path, options: RunOptions, shard: Shard) -> None:
    """With --overwrite, remove the folder.

    Raises UsageError when it comes from one of several workers, which would delete the others'
    parts.
    """
    if options.overwrite:
        if shard.count > 1:
            raise UsageError("--overwrite contradicts --shard; remove the folder, then start them")
        target = folder.resolve()
        remove(target)
        if folder.is_symlink():
            target.mkdir()


def remove(folder: Path) -> None:
    """Remove a folder at once: parts that a kill left of it would be taken for the next run's."""
    aside = folder.with_name(f"{folder.name}.removed")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            folder.rename(aside)
            shutil.rmtree(aside)
    except OSError as error:
        raise ExpoError(f"{folder}: cannot be removed: {error.strerror or error}") from error


def begin_or_continue(
    folder: Path,
    run: Run,
    name: str = "run.json",
    results: str = "*",
    remedy: str = START_ANEW,
) -> None:
    """Write the folder's provenance, or check that the one there has the same plan and inputs.

    What was begun but has no file that matches `results` yet is begun anew. Raises ContractError,
    which advises `remedy`, when the plan or the inputs differ.
    """
    remove_abandoned(folder)
    made = any(path.name != name for path in folder.glob(results))
    if not (made and (folder / name).exists()):
        write_run(folder, run, name)
        return
    begun = read_run(folder, name)
    place = folder if name == "run.json" else folder / name
    check_same_plan(place, begun.plan, json.loads(json.dumps(run.plan)), remedy)
    check_same_plan(place, _digests(begun), _digests(run), remedy)


def begin_cache(folder: Path, run: Run, flag: str) -> None:
    """Write the provenance of a folder that later runs add to, or check that it is of the same plan.

    Raises ContractError, which names the `flag` that chose it, when it is not.
    """
    remedy = f"choose another {flag}"
    # In this order: another worker may begin it meanwhile, and writes run.json first.
    filled = any(folder.rglob("*.safetensors"))
    if not run_path(folder).exists():
        if filled:
            raise ContractError(f"{folder}: has no run.json to say of what it is; {remedy}")
        write_run(folder, run)
    check_same_plan(folder, read_run(folder).plan, run.plan, remedy)


def _digests(run: Run) -> dict[str, str]:
    return {f"the sha256 of {name}": digest for name, digest in run.inputs.items()}
