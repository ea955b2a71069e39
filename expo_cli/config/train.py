"""Settings of `expo train`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from expo_cli.config.common import (
    LARGEST_BATCH,
    LARGEST_COUNT,
    CommonConfig,
    Flag,
    Precision,
    check_at_most,
    check_positive,
)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(CommonConfig):
    init_from: Annotated[
        str, Flag("Weights to start from, such as the previous iteration's policy.", "Policies")
    ]
    ref: Annotated[
        str | None,
        Flag(
            "Frozen reference model, usually the pre-trained one (default: --init-from, or "
            "its base if it is a LoRA).",
            "Policies",
        ),
    ] = None
    objective: Annotated[
        str,
        Flag(
            "NAME[:key=value,...]: sft, dpo, kto, spo or expo; for example "
            "expo:beta=5000,alpha=0.01.",
            "Method",
        ),
    ] = "dpo"
    caption_dropout: Annotated[
        float, Flag("Fraction of examples trained with an empty prompt.", "Method")
    ] = 0.0
    noise_draws: Annotated[
        int | None,
        Flag(
            "Reuse each example's noise, timestep and caption dropout after N visits "
            "(default: never).",
            "Method",
        ),
    ] = None
    mix: Annotated[
        str | None,
        Flag(
            "Shares of the visits by pair file: newest=0.5 (the last file) or whole numbers as 2,1,1 "
            "(default: by size).",
            "Method",
        ),
    ] = None
    max_train_steps: Annotated[int, Flag("Number of optimiser steps.", "Optimiser")] = 2000
    train_batch_size: Annotated[
        int, Flag("Pairs (with kto: images) per process and forward pass.", "Optimiser")
    ] = 4
    gradient_accumulation_steps: Annotated[
        int, Flag("Forward passes per optimiser step.", "Optimiser")
    ] = 1
    learning_rate: Annotated[float, Flag("Peak learning rate, before --scale-lr.", "Optimiser")] = (
        1e-5
    )
    scale_lr: Annotated[
        bool, Flag("Multiply the learning rate by the global batch size.", "Optimiser")
    ] = False
    lr_scheduler: Annotated[
        Literal["constant", "linear", "cosine"],
        Flag("Learning rate schedule after the warm-up.", "Optimiser"),
    ] = "constant"
    warmup_ratio: Annotated[
        float, Flag("Fraction of the steps in which the learning rate rises from 0.", "Optimiser")
    ] = 0.25
    adam_beta1: Annotated[float, Flag("AdamW beta1.", "Optimiser")] = 0.9
    adam_beta2: Annotated[float, Flag("AdamW beta2.", "Optimiser")] = 0.999
    adam_epsilon: Annotated[float, Flag("AdamW epsilon.", "Optimiser")] = 1e-8
    adam_weight_decay: Annotated[float, Flag("AdamW weight decay.", "Optimiser")] = 1e-2
    max_grad_norm: Annotated[
        float, Flag("Clip the gradient norm to this value; 0 disables clipping.", "Optimiser")
    ] = 1.0
    max_error_ratio: Annotated[
        float,
        Flag(
            "Stop if the policy's error on winners exceeds this multiple of the reference's.",
            "Optimiser",
        ),
    ] = 3.0
    use_lora: Annotated[bool, Flag("Train a LoRA adapter instead of all weights.", "LoRA")] = False
    lora_rank: Annotated[int, Flag("LoRA rank.", "LoRA")] = 16
    lora_alpha: Annotated[int | None, Flag("LoRA alpha (default: the rank).", "LoRA")] = None
    lora_target_modules: Annotated[
        tuple[str, ...],
        Flag(
            "Suffix of layers to adapt, e.g. to_q; may be repeated (default: as --init-from, "
            "or all attention projections).",
            "LoRA",
        ),
    ] = ()
    mixed_precision: Annotated[
        Precision,
        Flag(
            "Precision of the forward pass; the optimiser's copy of the weights is always fp32.",
            "Speed",
        ),
    ] = "auto"
    gradient_checkpointing: Annotated[
        bool, Flag("Recompute activations in the backward pass: less memory, more time.", "Speed")
    ] = False
    shard_optimizer: Annotated[
        bool,
        Flag(
            "Shard fp32 weights, gradients and optimiser states across processes (ZeRO-2).",
            "Speed",
        ),
    ] = False
    reference_cache: Annotated[
        str | None,
        Flag(
            "Folder that caches the reference model's outputs; the model is loaded only "
            "for missing entries.",
            "Speed",
        ),
    ] = None
    text_cache: Annotated[
        str | None,
        Flag(
            "SD 3 and FLUX: folder that caches T5 embeddings (default: in --out, until "
            "training is finished).",
            "Speed",
        ),
    ] = None
    checkpointing_steps: Annotated[int, Flag("Save a resumable state every N steps.", "Output")] = (
        100
    )
    checkpoints_total_limit: Annotated[int, Flag("Keep only the newest N states.", "Output")] = 2
    keep_state: Annotated[
        bool,
        Flag(
            "Keep the last state when training is finished, so that a larger "
            "--max-train-steps can continue from it.",
            "Output",
        ),
    ] = False
    logging_steps: Annotated[int, Flag("Log metrics every N steps.", "Output")] = 10
    report_to: Annotated[
        Literal["none", "tensorboard", "wandb"],
        Flag("Tracker to log to as well; it must be installed.", "Output"),
    ] = "none"
    num_processes: Annotated[
        int | None,
        Flag("Fail unless started with this many processes (accelerate launch).", "Running"),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix is not None:
            from expo_cli.core.mix import parse_mix

            parse_mix(self.mix)
        check_positive(
            noise_draws=self.noise_draws,
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
        check_at_most(
            LARGEST_BATCH,
            train_batch_size=self.train_batch_size,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
            lora_rank=self.lora_rank,
        )
        check_at_most(
            LARGEST_COUNT, max_train_steps=self.max_train_steps, noise_draws=self.noise_draws
        )
        if self.lora_target_modules and not self.use_lora:
            raise ValueError("--lora-target-modules needs --use-lora")
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
