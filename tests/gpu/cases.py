"""Every check, in the order in which they run; add a new one as a row."""

from functools import partial

from tests.gpu import drawing, throughput, training
from tests.gpu.checks import Check, Throughput

CHECKS = [
    Check(
        "noise",
        "the first noise is the CPU's, bit for bit",
        drawing.first_noise,
        0.0,
        "it is drawn on the CPU whatever the device",
    ),
    Check(
        "batch",
        "latents drawn alone against together, fp32",
        drawing.batch_independence,
        5e-3,
        "ten roundings of TF32, 2^-11, in which cuDNN may compute convolutions",
    ),
    Check(
        "bf16-rollout",
        "latents drawn in bf16 against fp32",
        drawing.bf16_rollout,
        0.03,
        "bf16 rounds to 2^-9: fifteen roundings at random over the steps",
    ),
    Check(
        "gradients",
        "the first step's gradients against diffusers' loop, all weights, fp32",
        training.gradients_against_diffusers,
        0.02,
        "attention and convolutions by other kernels, in TF32 on a GPU",
    ),
    Check(
        "bf16-training",
        "losses and errors of training in bf16 against fp32, all weights",
        training.bf16_training,
        0.02,
        "means over an image's errors, which round at random; beta is 10, as it multiplies them",
    ),
    Check(
        "bf16-lora",
        "losses and errors of training in bf16 against fp32, LoRA",
        partial(training.bf16_training, use_lora=True),
        0.02,
        "as of all weights",
    ),
    Check(
        "trained",
        "latents by trained weights against diffusers' pipeline, fp32",
        partial(training.trained_against_diffusers, learning_rate=1e-4),
        5e-3,
        "the same sums in another order, in TF32 on a GPU",
    ),
    Check(
        "trained-lora",
        "latents by a trained LoRA against diffusers' pipeline, fp32",
        partial(training.trained_against_diffusers, use_lora=True, learning_rate=1e-2),
        5e-3,
        "the same sums in another order, in TF32 on a GPU",
    ),
    Check(
        "resume-lora",
        "files that differ after a kill, LoRA",
        partial(training.resume, use_lora=True),
        0,
        "deterministic kernels give the same bytes",
    ),
    Check(
        "resume",
        "files that differ after a kill, all weights",
        training.resume,
        0,
        "deterministic kernels give the same bytes",
    ),
    Check(
        "scaler",
        "errors in fp16, after steps that overflowed were skipped, against fp32",
        training.scaled_training,
        0.01,
        "fp16 rounds to 2^-11",
        needs_gpu=True,
    ),
]
THROUGHPUT = [
    Throughput("pairs", "pairs, all weights,", partial(throughput.pairs, use_lora=False)),
    Throughput("pairs-lora", "pairs, LoRA,", partial(throughput.pairs, use_lora=True)),
    Throughput("images", "images", throughput.images),
    Throughput("scores", "scores", throughput.scores),
]
NAMES = [case.name for case in (*CHECKS, *THROUGHPUT)]
