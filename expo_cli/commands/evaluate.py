from pathlib import Path
from typing import Annotated

import typer

from expo_cli.commands.flags import config_flags
from expo_cli.commands.output import show
from expo_cli.config import EvaluateConfig, RunOptions


@config_flags
def command(
    policies: Annotated[
        list[str],
        typer.Argument(
            help="LABEL=FOLDER per policy: scored rollouts of the same prompts and seeds."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")],
    config: EvaluateConfig,
    options: RunOptions,
) -> None:
    """Compare policies on the same prompts and seeds, and write results.json and report.html.

    Example: expo evaluate base=eval/0 iteration-1=eval/1 --baseline base --out eval/report
    """
    from expo_cli.stages.evaluate.run import evaluate_policies

    show(evaluate_policies(policies, out, config, options), options)
