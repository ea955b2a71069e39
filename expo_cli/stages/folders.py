"""Folders of parts that several workers make together: begun once, continued only by the same run."""

import json
import shutil
from pathlib import Path

from expo_cli.config import RunOptions
from expo_cli.contracts.parts import Shard, check_same_plan
from expo_cli.contracts.provenance import Run, read_run, run_path, write_run
from expo_cli.errors import UsageError


def begin_or_continue(folder: Path, run: Run, options: RunOptions, shard: Shard) -> None:
    """Write the folder's run.json, or check that the one there has the same plan and inputs.

    Raises ContractError when it differs, UsageError when --overwrite comes from one of several
    workers, which would delete the others' parts.
    """
    if options.overwrite:
        if shard.count > 1:
            raise UsageError("--overwrite contradicts --shard; remove the folder, then start them")
        shutil.rmtree(folder, ignore_errors=True)
    if run_path(folder).exists():
        begun = read_run(folder)
        as_read_back = json.loads(json.dumps(run.plan | run.inputs))
        check_same_plan(folder, begun.plan | begun.inputs, as_read_back)
    else:
        write_run(folder, run)
