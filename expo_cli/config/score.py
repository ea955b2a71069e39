"""Settings of `expo score`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from expo_cli.config.common import (
    LARGEST_BATCH,
    CommonConfig,
    Flag,
    Precision,
    check_at_most,
    check_positive,
)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(CommonConfig):
    reward: Annotated[
        tuple[str, ...],
        Flag(
            "[LABEL=]NAME[:key=value,...]; may be repeated. pickscore[:model=,processor=], "
            "hpsv2[:version=2.1|2.0 or checkpoint=,config= or model=][,antialias=], "
            "clip-score[:model=,processor=], "
            "laion-aesthetic:weights=FILE[,model=,processor=], exec:PROGRAM, or the dotted "
            "path of a class. LABEL (default: NAME) names the files and table columns.",
            "Rewards",
        ),
    ] = ()
    index: Annotated[
        str | None,
        Flag(
            "JSONL of {image, prompt} (- for stdin): score these images in FOLDER instead of "
            "a rollout; transparency becomes white.",
            "Reading",
        ),
    ] = None
    unreadable: Annotated[
        Literal["stop", "drop"],
        Flag(
            "What to do with an image of --index that cannot be used: stop, or drop it and "
            "count it.",
            "Reading",
        ),
    ] = "stop"
    part_size: Annotated[int, Flag("Images per part, with --index.", "Output")] = 256
    vae: Annotated[
        str | None,
        Flag("Model whose VAE decodes the latents (default: the model that drew them).", "Reading"),
    ] = None
    batch_size: Annotated[int, Flag("Images per batch.", "Speed")] = 32
    dtype: Annotated[Precision, Flag("Precision of the rewards and the decoder.", "Speed")] = "fp32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(batch_size=self.batch_size, part_size=self.part_size)
        check_at_most(LARGEST_BATCH, batch_size=self.batch_size, part_size=self.part_size)
        if not self.reward:
            raise ValueError("--reward is required at least once")
        if self.index is not None and self.vae is not None:
            raise ValueError("--vae contradicts --index: images are not decoded")
        if self.index is None and self.unreadable != "stop":
            raise ValueError(
                "--unreadable needs --index: a rollout's samples that are NaN or black are always "
                "skipped"
            )
