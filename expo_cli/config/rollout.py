"""Settings of `expo rollout`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from expo_cli.config.common import (
    LARGEST_BATCH,
    LARGEST_COUNT,
    LARGEST_SIDE,
    CommonConfig,
    Flag,
    Precision,
    check_at_most,
    check_positive,
)

SAMPLES_PER_PART = 1_000_000


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(CommonConfig):
    policy: Annotated[
        str, Flag("Weights to draw with: pipeline folder, LoRA checkpoint or hub id.", "Policies")
    ]
    agent: Annotated[
        Literal["main", "explore"], Flag("Which agent these samples belong to.", "Policies")
    ] = "main"
    explorer: Annotated[
        str | None,
        Flag(
            "How the explore agent differs from main: same, previous, reference, "
            "extrapolate[:w=1.5], sampling[:guidance_scale=,eta=,num_inference_steps=,scheduler=], "
            "mixture:guidance_scale=1.5/3 (the same options, other settings for each image of a "
            "prompt) or checkpoint:path=.",
            "Policies",
        ),
    ] = None
    previous: Annotated[
        str | None, Flag("Weights of the previous iteration, for --explorer previous.", "Policies")
    ] = None
    ref: Annotated[
        str | None,
        Flag("Reference weights, for --explorer reference and extrapolate.", "Policies"),
    ] = None
    kl_to: Annotated[
        str | None,
        Flag(
            "Record each sample's trajectory KL to these weights (needs ddpm, or ddim with "
            "eta > 0).",
            "Policies",
        ),
    ] = None
    num_images_per_prompt: Annotated[int, Flag("Images per prompt.", "Sampling")] = 4
    first_index: Annotated[
        int,
        Flag(
            "Index of each prompt's first image. To extend another rollout, give its last "
            "index + 1.",
            "Sampling",
        ),
    ] = 0
    redraw: Annotated[
        str | None,
        Flag(
            "Scored rollout whose best and worst samples are drawn again from the same noise, half "
            "and half.",
            "Sampling",
        ),
    ] = None
    redraw_reward: Annotated[
        str | None, Flag("The reward by whose scores --redraw chooses.", "Sampling")
    ] = None
    scheduler: Annotated[
        str | None,
        Flag(
            "ddpm (default), ddim, dpm-solver++, sde-dpm-solver++, euler or euler-ancestral; "
            "flow-match-euler for SD 3 and FLUX.",
            "Sampling",
        ),
    ] = None
    num_inference_steps: Annotated[int, Flag("Number of denoising steps.", "Sampling")] = 50
    guidance_scale: Annotated[
        float, Flag("Classifier-free guidance scale; 1 or less disables guidance.", "Sampling")
    ] = 7.5
    eta: Annotated[float, Flag("DDIM eta; 1 is ancestral sampling.", "Sampling")] = 0.0
    height: Annotated[int | None, Flag("Height in pixels (default: the model's).", "Sampling")] = (
        None
    )
    width: Annotated[int | None, Flag("Width in pixels (default: the model's).", "Sampling")] = None
    neg_schedule: Annotated[
        Literal["none", "linear", "constant", "cosine"],
        Flag(
            "How the probability of a negative prompt changes over the iterations.",
            "Negative prompts",
        ),
    ] = "none"
    negative_prompts: Annotated[
        str | None, Flag("File of negative prompts, one per line.", "Negative prompts")
    ] = None
    iteration: Annotated[
        int, Flag("Number of this iteration, from 1 (0: outside the loop).", "Negative prompts")
    ] = 0
    iterations: Annotated[int | None, Flag("Total number of iterations.", "Negative prompts")] = (
        None
    )
    num_step_candidates: Annotated[
        int | None,
        Flag(
            "For SPO (ddim, eta > 0): draw N candidates per step, keep the best and the "
            "worst, continue from a random one.",
            "Step pairs",
        ),
    ] = None
    step_reward: Annotated[
        str | None,
        Flag(
            "Reward of the candidates, as score --reward. All but step-pickscore judge the "
            "predicted final image.",
            "Step pairs",
        ),
    ] = None
    skip_steps: Annotated[
        int | None, Flag("Number of initial steps without candidates (default: 0).", "Step pairs")
    ] = None
    images: Annotated[
        Literal["none", "png", "webp", "jpg"],
        Flag("Also save the images in this format.", "Output"),
    ] = "none"
    part_size: Annotated[int, Flag("Prompts per part.", "Output")] = 64
    batch_size: Annotated[int, Flag("Images per batch; a batch may span prompts.", "Speed")] = 32
    dtype: Annotated[
        Precision, Flag("Precision of the weights; auto picks the fastest for the device.", "Speed")
    ] = "auto"
    text_cache: Annotated[
        str | None,
        Flag(
            "SD 3 and FLUX: folder that caches T5 embeddings, so that T5 and the network are "
            "never in memory together.",
            "Speed",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.redraw is None) != (self.redraw_reward is None):
            raise ValueError("--redraw and --redraw-reward need each other")
        if self.redraw is not None:
            if self.num_images_per_prompt % 2:
                raise ValueError("--redraw needs an even --num-images-per-prompt: best and worst")
            if self.first_index or self.num_step_candidates:
                raise ValueError("--redraw contradicts --first-index and --num-step-candidates")
        check_positive(
            num_images_per_prompt=self.num_images_per_prompt,
            num_inference_steps=self.num_inference_steps,
            part_size=self.part_size,
            batch_size=self.batch_size,
            height=self.height,
            width=self.width,
        )
        check_at_most(LARGEST_SIDE, height=self.height, width=self.width)
        check_at_most(10_000, num_inference_steps=self.num_inference_steps)
        check_at_most(
            LARGEST_BATCH,
            num_images_per_prompt=self.num_images_per_prompt,
            part_size=self.part_size,
            batch_size=self.batch_size,
            num_step_candidates=self.num_step_candidates,
        )
        check_at_most(LARGEST_COUNT, first_index=self.first_index, iterations=self.iterations)
        if self.part_size * self.num_images_per_prompt > SAMPLES_PER_PART:
            raise ValueError(
                f"--part-size {self.part_size} x --num-images-per-prompt "
                f"{self.num_images_per_prompt} are more than {SAMPLES_PER_PART} images per part, "
                "which are held in memory; lower --part-size"
            )
        if self.first_index < 0:
            raise ValueError(f"--first-index must not be negative, got {self.first_index}")
        if self.agent == "main" and self.explorer is not None:
            raise ValueError("--explorer contradicts --agent main; use --agent explore")
        if self.agent == "explore" and self.explorer is None:
            raise ValueError("--agent explore needs --explorer (same, previous, reference, ...)")
        if self.neg_schedule != "none" and self.negative_prompts is None:
            raise ValueError(f"--neg-schedule {self.neg_schedule} needs --negative-prompts FILE")
        if self.neg_schedule == "none" and self.negative_prompts is not None:
            raise ValueError("--negative-prompts contradicts --neg-schedule none")
        if self.neg_schedule != "none" and self.guidance_scale <= 1:
            raise ValueError("a negative prompt has no effect at --guidance-scale 1 or less")
        if self.neg_schedule in ("linear", "cosine"):
            if self.iterations is None:
                raise ValueError(f"--neg-schedule {self.neg_schedule} needs --iterations")
            if not 1 <= self.iteration <= self.iterations:
                raise ValueError(
                    f"--iteration must be from 1 to --iterations ({self.iterations}), "
                    f"got {self.iteration}"
                )
        if not 0 <= self.eta <= 1:
            raise ValueError(f"--eta must be in [0, 1], got {self.eta}")
        if self.eta and self.scheduler != "ddim":
            raise ValueError(
                f"--eta belongs to --scheduler ddim, not {self.scheduler or 'the default'}"
            )
        if self.num_step_candidates is None:
            for name in ("step_reward", "skip_steps"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name.replace('_', '-')} needs --num-step-candidates")
        else:
            if self.num_step_candidates < 2:
                raise ValueError(
                    f"--num-step-candidates must be at least 2, got {self.num_step_candidates}"
                )
            if self.step_reward is None:
                raise ValueError("--num-step-candidates needs --step-reward")
            if self.skip_steps is not None and self.skip_steps < 0:
                raise ValueError(f"--skip-steps must not be negative, got {self.skip_steps}")
