"""Knobs of `expo make-pairs`."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from expo_cli.config.common import (
    LARGEST_BATCH,
    LARGEST_SIDE,
    CommonConfig,
    Flag,
    Precision,
    check_at_most,
    check_positive,
)


@dataclass(frozen=True, kw_only=True)
class MakePairsConfig(CommonConfig):
    reward: Annotated[
        tuple[str, ...],
        Flag(
            "LABEL[=WEIGHT] of a reward to pair by; may be repeated. Default: the only one there.",
            "Pairing",
        ),
    ] = ()
    scores: Annotated[
        tuple[str, ...],
        Flag("Score folder of each rollout, in their order; ROLLOUT/scores by default.", "Reading"),
    ] = ()
    pairing: Annotated[
        str,
        Flag(
            "Which samples of a prompt make a pair: best-worst (one pair a prompt), "
            "top-bottom:k=N (the N best with the N worst) or all. Of rollouts with step candidates also "
            "step-best-worst:min_confidence=0.3 (one pair a denoising step).",
            "Pairing",
        ),
    ] = "best-worst"
    combine: Annotated[
        str,
        Flag(
            "How several rewards become one within a prompt: z-score (sum), rank (sum), pareto "
            "(z-score, and no reward may prefer the loser), or weighted (raw sum: the reward with "
            "the larger spread wins).",
            "Pairing",
        ),
    ] = "z-score"
    source: Annotated[
        Literal["online", "offline"],
        Flag(
            "What pairs of rollouts are to the loop: its own, or given before it (D_off), as those "
            "of a --layout always are.",
            "Pairing",
        ),
    ] = "online"
    min_margin: Annotated[
        float, Flag("Drop pairs whose (combined) scores differ by less.", "Pairing")
    ] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_margin >= 0:
            raise ValueError(f"--min-margin must not be negative, got {self.min_margin}")


@dataclass(frozen=True, kw_only=True)
class PairImagesConfig:
    """Pairs of images: how those that exist become latents, and latents become images again."""

    layout: Annotated[
        str | None,
        Flag(
            "INPUTS are preferences over images, not rollouts: pick-a-pic (parquet), "
            "hpdv2:images=FOLDER (train.json, test.json), image-preferences[:prompt=,chosen=,"
            "rejected=] (parquet) or imagefolder[:prompt=,winner=,loser=] (metadata.jsonl).",
            "Images",
        ),
    ] = None
    export: Annotated[
        str | None,
        Flag(
            "INPUTS are pairs.jsonl files, to be written with their images into the folder --out: "
            "pick-a-pic[:images=png|webp|jpg] (parquet of the Diffusion-DPO scripts) or "
            "imagefolder[:images=].",
            "Images",
        ),
    ] = None
    vae: Annotated[
        str | None,
        Flag(
            "Model whose VAE encodes the images of a --layout (the policy to train), or decodes "
            "those to --export; these by default by the model whose latents they are.",
            "Images",
        ),
    ] = None
    resolution: Annotated[
        int | None,
        Flag(
            "Pixels of the short side, then of the centre crop; the model's by default.", "Images"
        ),
    ] = None
    posterior: Annotated[
        Literal["sample", "mean"],
        Flag("Which latents of the VAE's posterior: a draw by --seed, or its mean.", "Images"),
    ] = "sample"
    flip: Annotated[bool, Flag("Also make each pair of the mirrored images.", "Images")] = False
    unreadable: Annotated[
        Literal["stop", "drop"],
        Flag("At an image that cannot be used: stop, or drop its pairs and count them.", "Images"),
    ] = "stop"
    part_size: Annotated[int, Flag("Images, or pairs to --export, a part.", "Images")] = 1024
    batch_size: Annotated[int, Flag("Images a batch.", "Images")] = 16
    dtype: Annotated[Precision, Flag("Precision of the VAE.", "Images")] = "fp32"

    def __post_init__(self) -> None:
        check_positive(
            resolution=self.resolution, part_size=self.part_size, batch_size=self.batch_size
        )
        check_at_most(LARGEST_SIDE, resolution=self.resolution)
        check_at_most(LARGEST_BATCH, part_size=self.part_size, batch_size=self.batch_size)
        if self.layout is not None and self.export is not None:
            raise ValueError("--layout contradicts --export: import the images first")
        if self.layout is not None and self.vae is None:
            raise ValueError("--layout needs --vae, the model whose VAE encodes the images")
        needs_layout = ("resolution", "posterior", "flip", "unreadable")
        needs_either = ("vae", "part_size", "batch_size", "dtype")
        for field in fields(self):
            if getattr(self, field.name) == field.default or self.layout is not None:
                continue
            name = field.name.replace("_", "-")
            if field.name in needs_layout:
                raise ValueError(f"--{name} needs --layout")
            if field.name in needs_either and self.export is None:
                raise ValueError(f"--{name} needs --layout or --export")
