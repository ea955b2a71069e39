from pathlib import Path
from typing import Annotated

import typer

from expo_cli.commands.flags import config_flags
from expo_cli.commands.output import show
from expo_cli.config import MakePairsConfig, PairImagesConfig, RunOptions


@config_flags
def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Scored rollout folders of one iteration (with --layout: preference data; with "
            "--export: pairs.jsonl files)."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="pairs.jsonl to write, in a folder above the rollouts, or - for stdout (with "
            "--export: a folder)."
        ),
    ],
    config: MakePairsConfig,
    images: PairImagesConfig,
    options: RunOptions,
    shard: Annotated[
        str,
        typer.Option(
            help="Process only the parts i modulo n, with --layout or --export.", metavar="i/n"
        ),
    ] = "0/1",
) -> None:
    """Pair the samples of each prompt by their scores, over all rollouts in INPUTS together.

    With --layout, INPUTS are preference data with images, which are encoded to latents next to --out.
    With --export, INPUTS are pair files, which are written with their images for other programs.

    Example: expo make-pairs it1/main it1/explore --reward pickscore --out it1/pairs.jsonl
    """
    from expo_cli.stages.make_pairs.run import make_pairs

    show(make_pairs(inputs, out, config, images, options, shard), options)
