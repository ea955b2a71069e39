"""Commands that make one file: its provenance beside it, and whether it is made already."""

import glob
import json
from pathlib import Path

from expo_cli.config import RunOptions
from expo_cli.contracts.files import remove_abandoned
from expo_cli.contracts.parts import check_same_plan
from expo_cli.contracts.provenance import Run, read_run, write_run


def run_name(out: Path) -> str:
    """The name of the file, beside `out`, that holds its provenance."""
    return f"{out.name}.run.json"


def finished_run(out: Path, run: Run, options: RunOptions) -> Run | None:
    """The run that made `out` from the same plan and inputs, or None when it is to be made.

    Raises ContractError when another run made it.
    """
    remove_abandoned(out.parent, f"{glob.escape(out.name)}*")
    path = out.with_name(run_name(out))
    if options.overwrite:
        # Before the new file, so that a run killed between the two leaves no false provenance.
        path.unlink(missing_ok=True)
    if not (out.exists() and path.exists()):
        return None
    finished = read_run(out.parent, run_name(out))
    check_same_plan(out, finished.plan, json.loads(json.dumps(run.plan)))
    check_same_plan(out, finished.inputs, run.inputs)
    return finished


def write_run_beside(out: Path, run: Run) -> None:
    write_run(out.parent, run, run_name(out))
