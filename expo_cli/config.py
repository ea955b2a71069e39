"""Every knob of every command, once: its name, type, default, help and check.

`commands.flags` makes the command line out of these classes, `--config FILE.toml` fills the same
fields, and `run.json` records them. Sources of weights are a folder, a hub id or `embedded:NAME`.
"""

import math
from dataclasses import dataclass, fields
from typing import Annotated, Literal

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Flag:
    """What the command line shows of a field."""

    help: str
    panel: str = "Options"


def check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and value <= 0:
            raise ValueError(f"--{name.replace('_', '-')} must be positive, got {value}")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a command runs; nothing here changes what it makes."""

    dry_run: Annotated[
        bool, Flag("Print the plan (counts, sizes, effective settings) and stop.", "Running")
    ] = False
    overwrite: Annotated[
        bool, Flag("Start an output that exists anew instead of continuing it.", "Running")
    ] = False
    quiet: Annotated[bool, Flag("No progress and no notes on stderr.", "Running")] = False
    json: Annotated[bool, Flag("Print the result as JSON on stdout.", "Running")] = False


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    seed: Annotated[int, Flag("Seed of everything random.", "Running")] = 0
    limit: Annotated[int | None, Flag("Use only the first N inputs.", "Running")] = None

    def __post_init__(self) -> None:
        check_positive(limit=self.limit)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{field.name.replace('_', '-')} must be finite, got {value}")


@dataclass(frozen=True, kw_only=True)
class PrepPromptsConfig(CommonConfig):
    layout: Annotated[
        Literal[
            "auto",
            "txt",
            "csv",
            "tsv",
            "jsonl",
            "parquet",
            "pick-a-pic",
            "hpdv2",
            "hps-benchmark",
        ],
        Flag("How to read the inputs; auto goes by the file's ending.", "Reading"),
    ] = "auto"
    prompt_column: Annotated[
        str | None,
        Flag("Column of the prompt; 'prompt' by default ('caption' in pick-a-pic).", "Reading"),
    ] = None
    category_column: Annotated[
        str | None, Flag("Column of the category; 'category', if there is one.", "Reading")
    ] = None
    max_tokens: Annotated[
        int, Flag("Drop prompts of more tokens, both end marks counted.", "Choosing")
    ] = 77
    tokenizer: Annotated[
        str | None,
        Flag(
            "Whose tokens: a model or tokenizer folder, or hub id; CLIP's by default.", "Choosing"
        ),
    ] = None
    sample: Annotated[
        int | None,
        Flag("Keep N prompts to train on, chosen by hash of --seed and prompt.", "Choosing"),
    ] = None
    heldout_fraction: Annotated[
        float,
        Flag("Share of prompts held out, by hash of the prompt whatever the seed.", "Choosing"),
    ] = 0.0
    heldout_sample: Annotated[
        int | None, Flag("Keep N of the held-out prompts, chosen likewise.", "Choosing")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            max_tokens=self.max_tokens, sample=self.sample, heldout_sample=self.heldout_sample
        )
        if not 0 <= self.heldout_fraction < 1:
            raise ValueError(f"--heldout-fraction must be in [0, 1), got {self.heldout_fraction}")
        if self.heldout_sample and not self.heldout_fraction:
            raise ValueError("--heldout-sample needs --heldout-fraction")


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
        str,
        Flag(
            "ddpm, ddim, dpm-solver++, sde-dpm-solver++, euler or euler-ancestral.",
            "Sampling",
        ),
    ] = "ddpm"
    num_inference_steps: Annotated[int, Flag("Denoising steps.", "Sampling")] = 50
    guidance_scale: Annotated[
        float, Flag("Classifier-free guidance; 1 turns it off.", "Sampling")
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
            raise ValueError(f"--eta belongs to --scheduler ddim, not {self.scheduler}")
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


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(CommonConfig):
    reward: Annotated[
        tuple[str, ...],
        Flag(
            "[LABEL=]NAME[:key=value,...]; may be repeated. pickscore[:model=,processor=], "
            "hpsv2[:version=2.1|2.0 or checkpoint=,config= or model=][,antialias=], "
            "clip-score[:model=,processor=], exec:PROGRAM, or the dotted path of a class. The "
            "label (default: the name) is what files and tables call it.",
            "Rewards",
        ),
    ] = ()
    index: Annotated[
        str | None,
        Flag(
            "JSONL of {image, prompt}: score these images of FOLDER, which no rollout made; - is "
            "standard input. Transparency is laid over white.",
            "Reading",
        ),
    ] = None
    part_size: Annotated[int, Flag("Images a part, with --index.", "Output")] = 256
    vae: Annotated[
        str | None, Flag("Model whose VAE decodes; by default the one that drew.", "Reading")
    ] = None
    batch_size: Annotated[int, Flag("Images a batch.", "Speed")] = 32
    dtype: Annotated[Precision, Flag("Precision of rewards and decoder.", "Speed")] = "fp32"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(batch_size=self.batch_size, part_size=self.part_size)
        if not self.reward:
            raise ValueError("--reward is needed at least once")
        if self.index is not None and self.vae is not None:
            raise ValueError("--vae contradicts --index: images are not decoded")


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


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonConfig):
    init_from: Annotated[
        str, Flag("Weights to start from: the previous iteration's policy.", "Policies")
    ]
    ref: Annotated[
        str | None,
        Flag("Frozen reference; the pre-trained model. Default: --init-from.", "Policies"),
    ] = None
    objective: Annotated[
        str,
        Flag(
            "NAME[:key=value,...]: sft, dpo, kto, spo or expo, e.g. expo:beta=5000,alpha=0.01.",
            "Method",
        ),
    ] = "dpo"
    caption_dropout: Annotated[
        float, Flag("Share of visits trained with an empty prompt.", "Method")
    ] = 0.0
    max_train_steps: Annotated[int, Flag("Optimiser steps.", "Optimiser")] = 2000
    train_batch_size: Annotated[
        int, Flag("Pairs, or single images of kto, a process a forward pass.", "Optimiser")
    ] = 4
    gradient_accumulation_steps: Annotated[
        int, Flag("Forward passes an optimiser step.", "Optimiser")
    ] = 1
    learning_rate: Annotated[float, Flag("Before --scale-lr.", "Optimiser")] = 1e-5
    scale_lr: Annotated[
        bool, Flag("Multiply the learning rate by the global batch size.", "Optimiser")
    ] = False
    lr_scheduler: Annotated[
        Literal["constant", "linear", "cosine"], Flag("After the warm-up.", "Optimiser")
    ] = "constant"
    warmup_ratio: Annotated[
        float, Flag("Share of the steps in which the rate rises from 0.", "Optimiser")
    ] = 0.25
    adam_beta1: Annotated[float, Flag("AdamW.", "Optimiser")] = 0.9
    adam_beta2: Annotated[float, Flag("AdamW.", "Optimiser")] = 0.999
    adam_epsilon: Annotated[float, Flag("AdamW.", "Optimiser")] = 1e-8
    adam_weight_decay: Annotated[float, Flag("AdamW.", "Optimiser")] = 1e-2
    max_grad_norm: Annotated[float, Flag("Clip the gradient's norm; 0: never.", "Optimiser")] = 1.0
    max_error_ratio: Annotated[
        float,
        Flag(
            "Stop when the policy's error on winners exceeds this many times the reference's.",
            "Optimiser",
        ),
    ] = 3.0
    use_lora: Annotated[bool, Flag("Train a LoRA adapter instead of all weights.", "LoRA")] = False
    lora_rank: Annotated[int, Flag("Rank.", "LoRA")] = 16
    lora_alpha: Annotated[int | None, Flag("Alpha; the rank by default.", "LoRA")] = None
    mixed_precision: Annotated[
        Precision, Flag("Of the forward pass; the optimiser's copy is always fp32.", "Speed")
    ] = "auto"
    gradient_checkpointing: Annotated[bool, Flag("Less memory for more time.", "Speed")] = False
    checkpointing_steps: Annotated[int, Flag("Save a resumable state every N steps.", "Output")] = (
        100
    )
    checkpoints_total_limit: Annotated[int, Flag("Keep the newest N states.", "Output")] = 2
    logging_steps: Annotated[int, Flag("A line of metrics every N steps.", "Output")] = 10
    report_to: Annotated[
        Literal["none", "tensorboard", "wandb"],
        Flag("Also log to this tracker, where it is installed.", "Output"),
    ] = "none"
    num_processes: Annotated[
        int | None,
        Flag("Fail unless started as this many processes (accelerate launch).", "Running"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(
            max_train_steps=self.max_train_steps,
            train_batch_size=self.train_batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            learning_rate=self.learning_rate,
            adam_epsilon=self.adam_epsilon,
            max_error_ratio=self.max_error_ratio,
            num_processes=self.num_processes,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            checkpointing_steps=self.checkpointing_steps,
            checkpoints_total_limit=self.checkpoints_total_limit,
            logging_steps=self.logging_steps,
        )
        if not 0 <= self.caption_dropout <= 1:
            raise ValueError(f"--caption-dropout must be in [0, 1], got {self.caption_dropout}")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"--warmup-ratio must be in [0, 1], got {self.warmup_ratio}")
        if self.max_grad_norm < 0:
            raise ValueError(f"--max-grad-norm must not be negative, got {self.max_grad_norm}")
        if self.adam_weight_decay < 0:
            raise ValueError(
                f"--adam-weight-decay must not be negative, got {self.adam_weight_decay}"
            )
        for name, beta in (("1", self.adam_beta1), ("2", self.adam_beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"--adam-beta{name} must be in [0, 1), got {beta}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(CommonConfig):
    baseline: Annotated[
        str | None, Flag("Label of the policy to compare with; the first by default.", "Comparing")
    ] = None
    training_reward: Annotated[
        str | None, Flag("Label of the reward that was trained on.", "Comparing")
    ] = None
    heldout_reward: Annotated[
        str | None, Flag("Label of the reward that was not.", "Comparing")
    ] = None
    num_bootstrap: Annotated[int, Flag("Bootstrap resamples of the prompts.", "Comparing")] = 2000
    confidence: Annotated[float, Flag("Of the intervals.", "Comparing")] = 0.95
    num_grid_prompts: Annotated[int, Flag("Prompts in the image grids.", "Report")] = 12
    title: Annotated[str, Flag("Of the report.", "Report")] = "EXPO report"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(num_bootstrap=self.num_bootstrap, num_grid_prompts=self.num_grid_prompts)
        if not 0 < self.confidence < 1:
            raise ValueError(f"--confidence must be in (0, 1), got {self.confidence}")
        if self.training_reward is not None and self.training_reward == self.heldout_reward:
            raise ValueError(
                f"--training-reward and --heldout-reward are both {self.heldout_reward}; a reward "
                "that was trained on is not held out"
            )


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    json: Annotated[
        bool, Flag("Print it as JSON, with the numbers of all missing parts.", "Output")
    ] = False
    missing_shards: Annotated[
        int | None,
        Flag(
            "Print only which of N shards have parts to make, as in 0,3,7: what --array of sbatch "
            "takes.",
            "Output",
        ),
    ] = None

    def __post_init__(self) -> None:
        check_positive(missing_shards=self.missing_shards)
        if self.json and self.missing_shards is not None:
            raise ValueError("--json contradicts --missing-shards: each is all that is printed")
