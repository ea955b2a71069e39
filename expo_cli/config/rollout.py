"""Knobs of `expo rollout`."""

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
        str, Flag("Weights that draw: pipeline folder, LoRA checkpoint, hub id.", "Policies")
    ]
    agent: Annotated[Literal["main", "explore"], Flag("Whose samples these are.", "Policies")] = (
        "main"
    )
    explorer: Annotated[
        str | None,
        Flag(
            "How the explore agent differs: same, previous, reference, "
            "sampling[:guidance_scale=,eta=,num_inference_steps=,scheduler=], checkpoint:path=.",
            "Policies",
        ),
    ] = None
    previous: Annotated[
        str | None, Flag("Weights of the iteration before, for --explorer previous.", "Policies")
    ] = None
    ref: Annotated[str | None, Flag("Reference weights, for --explorer reference.", "Policies")] = (
        None
    )
    kl_to: Annotated[
        str | None,
        Flag(
            "Record each sample's trajectory KL to these weights (ddpm, or ddim with eta > 0).",
            "Policies",
        ),
    ] = None
    num_images_per_prompt: Annotated[int, Flag("Images a prompt.", "Sampling")] = 4
    first_index: Annotated[
        int,
        Flag(
            "Number of a prompt's first image; with that of another rollout's last plus one, these "
            "are more images of its prompts.",
            "Sampling",
        ),
    ] = 0
    scheduler: Annotated[
        str | None,
        Flag(
            "ddpm (the default), ddim, dpm-solver++, sde-dpm-solver++, euler or euler-ancestral; "
            "flow-match-euler for SD 3 and FLUX.",
            "Sampling",
        ),
    ] = None
    num_inference_steps: Annotated[int, Flag("Denoising steps.", "Sampling")] = 50
    guidance_scale: Annotated[
        float, Flag("Classifier-free guidance; 1 or less turns it off.", "Sampling")
    ] = 7.5
    eta: Annotated[float, Flag("DDIM's eta; 1 is ancestral sampling.", "Sampling")] = 0.0
    height: Annotated[int | None, Flag("Pixels; the model's own by default.", "Sampling")] = None
    width: Annotated[int | None, Flag("Pixels; the model's own by default.", "Sampling")] = None
    neg_schedule: Annotated[
        Literal["none", "linear", "constant", "cosine"],
        Flag("Probability of a negative prompt over the iterations.", "Negative prompts"),
    ] = "none"
    negative_prompts: Annotated[
        str | None, Flag("File of negative prompts, one a line.", "Negative prompts")
    ] = None
    iteration: Annotated[
        int, Flag("This iteration, from 1 (0: outside the loop).", "Negative prompts")
    ] = 0
    iterations: Annotated[int | None, Flag("Iterations in all.", "Negative prompts")] = None
    num_step_candidates: Annotated[
        int | None,
        Flag(
            "Draw each step (ddim with eta > 0) N times, and keep the best and the worst of these "
            "for step pairs; the sample goes on from any of them.",
            "Step pairs",
        ),
    ] = None
    step_reward: Annotated[
        str | None,
        Flag(
            "Who judges what the policy sees in a candidate, as --reward of score: step-pickscore, "
            "or one that takes it for a finished image.",
            "Step pairs",
        ),
    ] = None
    skip_steps: Annotated[
        int | None, Flag("First steps that are drawn once, as ever; none by default.", "Step pairs")
    ] = None
    images: Annotated[
        Literal["none", "png", "webp", "jpg"], Flag("Also write images.", "Output")
    ] = "none"
    part_size: Annotated[int, Flag("Prompts a part.", "Output")] = 64
    batch_size: Annotated[int, Flag("Images a batch, across prompts.", "Speed")] = 32
    dtype: Annotated[
        Precision, Flag("Precision of the weights; auto: the fastest this device has.", "Speed")
    ] = "auto"
    text_cache: Annotated[
        str | None,
        Flag(
            "SD 3, FLUX: folder that keeps what T5 says of each prompt, for this and other runs. T5 "
            "says it before the network is loaded; without it both are loaded at once.",
            "Speed",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
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
                f"{self.num_images_per_prompt} are more than {SAMPLES_PER_PART} images in a part, "
                "which memory holds at once; lower --part-size"
            )
        if self.first_index < 0:
            raise ValueError(f"--first-index must not be negative, got {self.first_index}")
        if self.agent == "main" and self.explorer is not None:
            raise ValueError("--explorer contradicts --agent main; say --agent explore")
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
