"""Knobs of `expo train`."""

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
    noise_draws: Annotated[
        int | None,
        Flag(
            "Each pair's noise, timestep and dropped caption come again after so many visits to it.",
            "Method",
        ),
    ] = None
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
    lora_target_modules: Annotated[
        tuple[str, ...],
        Flag(
            "Adapt the layers whose names end so, e.g. to_q; may be repeated. Default: those of "
            "--init-from where it is a LoRA, else all projections of attention.",
            "LoRA",
        ),
    ] = ()
    mixed_precision: Annotated[
        Precision, Flag("Of the forward pass; the optimiser's copy is always fp32.", "Speed")
    ] = "auto"
    gradient_checkpointing: Annotated[bool, Flag("Less memory for more time.", "Speed")] = False
    shard_optimizer: Annotated[
        bool,
        Flag(
            "Of several processes each keeps its share of fp32 weights, gradients and moments "
            "(ZeRO-2).",
            "Speed",
        ),
    ] = False
    reference_cache: Annotated[
        str | None,
        Flag(
            "Folder that keeps what the reference says of each visit, for this and later runs; the "
            "reference is loaded only for what is missing there.",
            "Speed",
        ),
    ] = None
    text_cache: Annotated[
        str | None,
        Flag(
            "SD 3, FLUX: folder that keeps what T5 says of each prompt, for this and other runs. "
            "Default: in --out, until training is finished.",
            "Speed",
        ),
    ] = None
    checkpointing_steps: Annotated[int, Flag("Save a resumable state every N steps.", "Output")] = (
        100
    )
    checkpoints_total_limit: Annotated[int, Flag("Keep the newest N states.", "Output")] = 2
    keep_state: Annotated[
        bool,
        Flag(
            "Keep the last state of a finished training; a larger --max-train-steps goes on from it.",
            "Output",
        ),
    ] = False
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
