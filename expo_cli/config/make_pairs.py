"""Settings of `expo make-pairs`."""

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
            "LABEL[=WEIGHT] of a reward to pair by; may be repeated (default: the only one "
            "scored).",
            "Pairing",
        ),
    ] = ()
    scores: Annotated[
        tuple[str, ...],
        Flag(
            "Score folder of each rollout, in the same order (default: ROLLOUT/scores).", "Reading"
        ),
    ] = ()
    pairing: Annotated[
        str,
        Flag(
            "Which samples of a prompt form pairs: best-worst (one pair per prompt), random (two "
            "of them), top-bottom:k=N (the N best with the N worst) or all. For step candidates: "
            "step-best-worst:min_confidence=0.3 (one pair per denoising step).",
            "Pairing",
        ),
    ] = "best-worst"
    combine: Annotated[
        str,
        Flag(
            "How several rewards are combined per prompt: z-score (sum), rank (sum), pareto "
            "(z-score, and no reward may prefer the loser) or weighted (raw sum: the reward "
            "with the larger spread wins).",
            "Pairing",
        ),
    ] = "z-score"
    source: Annotated[
        Literal["online", "offline"],
        Flag(
            "Mark pairs as online (made by the loop) or offline (D_off). Pairs imported with "
            "--layout are always offline.",
            "Pairing",
        ),
    ] = "online"
    min_margin: Annotated[
        float, Flag("Drop pairs whose (combined) scores differ by less.", "Pairing")
    ] = 0.0
    label_agreement: Annotated[
        float | None,
        Flag(
            "Flip labels, mostly of near ties, until this share (0.5 to 1) agrees with the "
            "scores; 0 flips all.",
            "Pairing",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_margin >= 0:
            raise ValueError(f"--min-margin must not be negative, got {self.min_margin}")
        if self.label_agreement not in (None, 0) and not 0.5 <= self.label_agreement <= 1:
            raise ValueError(
                f"--label-agreement must be from 0.5 to 1, or 0, got {self.label_agreement}"
            )


@dataclass(frozen=True, kw_only=True)
class PairImagesConfig:
    """Preference data with images: how images are encoded to latents, and latents decoded to images."""

    layout: Annotated[
        str | None,
        Flag(
            "INPUTS are preferences over images, not rollouts: pick-a-pic (parquet), "
            "hpdv2:images=FOLDER (train.json, test.json), "
            "image-preferences[:prompt=,chosen=,rejected=] (parquet) or "
            "imagefolder[:prompt=,winner=,loser=] (metadata.jsonl).",
            "Images",
        ),
    ] = None
    export: Annotated[
        str | None,
        Flag(
            "Write the pairs in INPUTS (pairs.jsonl files) with their images into the folder "
            "--out: pick-a-pic[:images=png|webp|jpg] (parquet of the Diffusion-DPO scripts) "
            "or imagefolder[:images=].",
            "Images",
        ),
    ] = None
    vae: Annotated[
        str | None,
        Flag(
            "With --layout: model whose VAE encodes the images. With --export: the one that "
            "decodes (default: that of the latents).",
            "Images",
        ),
    ] = None
    resolution: Annotated[
        int | None,
        Flag(
            "Size in pixels: resize the short side to it, then crop the centre (default: the "
            "model's).",
            "Images",
        ),
    ] = None
    posterior: Annotated[
        Literal["sample", "mean"],
        Flag("Encode to a draw (by --seed) from the VAE's posterior, or to its mean.", "Images"),
    ] = "sample"
    flip: Annotated[bool, Flag("Also add each pair with its images mirrored.", "Images")] = False
    unreadable: Annotated[
        Literal["stop", "drop"],
        Flag(
            "What to do with an image that cannot be used: stop, or drop its pairs and count them.",
            "Images",
        ),
    ] = "stop"
    part_size: Annotated[int, Flag("Images (with --export: pairs) per part.", "Images")] = 1024
    batch_size: Annotated[int, Flag("Images per batch.", "Images")] = 16
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
