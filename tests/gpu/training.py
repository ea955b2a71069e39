"""Checks of `expo train`."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from expo_cli.config import TrainConfig
from expo_cli.contracts.records import Sample
from expo_cli.contracts.states import saved_steps
from expo_cli.contracts.tensors import read_tensors
from expo_cli.models.lora import ADAPTER_WEIGHTS
from expo_cli.stages.train.plan import train_policy
from expo_cli.stages.train.trainer import Trainer
from tests.benchmarks.train import OURS, Ours, Theirs, gradients_apart
from tests.gpu.drawing import QUIET, roll_out_anew
from tests.gpu.setting import Setting, distance

STEPS = 4
# Forks children that have imported everything, and none of this process's use of the GPU.
SERVER = get_context("forkserver")
SERVER.set_forkserver_preload(["tests.gpu.training"])
# A loss scale at which every gradient of half precision overflows, and the steps that bring it down.
SCALE, SCALED_STEPS = 2.0**32, 24


def train_anew(setting: Setting, pairs: Path, out: Path, **settings) -> Path:
    config = {
        "init_from": str(setting.model),
        "objective": "dpo:beta=10",
        "max_train_steps": STEPS,
        "train_batch_size": setting.sizes.batch,
        "learning_rate": 1e-5,
        "warmup_ratio": 0.0,
        "mixed_precision": "fp32",
        "max_error_ratio": 100.0,
        "logging_steps": 1,
    }
    train_policy([pairs], out, TrainConfig(**config | settings), QUIET)
    return out


def measured(checkpoint: Path, name: str) -> list[float | None]:
    lines = (checkpoint / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)[name] for line in lines]


def largest_difference(checkpoint: Path, other: Path, *names: str) -> float:
    """Of the two's measurements, relative to the other's, over all steps."""
    return max(
        abs(mine - theirs) / abs(theirs)
        for name in names
        for mine, theirs in zip(measured(checkpoint, name), measured(other, name), strict=True)
    )


def bf16_training(setting: Setting, **settings) -> float:
    train = partial(train_anew, setting, setting.pairs, **settings)
    exact = train(setting.new("fp32"))
    rounded = train(setting.new("bf16"), mixed_precision="bf16")
    return largest_difference(rounded, exact, "loss", "winner_error", "loser_error")


def gradients_against_diffusers(setting: Setting) -> float:
    work = setting.work("fp32", use_lora=False)
    ours, theirs = Ours(work, OURS), Theirs(work)
    ours.step()
    theirs.step()
    return gradients_apart(ours, theirs)


def trained_against_diffusers(setting: Setting, **settings) -> float:
    """How far the trained policy's latents are from those that diffusers draws by its checkpoint.

    Raises AssertionError when training left the policy as it was.
    """
    trained = train_anew(setting, setting.pairs, setting.new("trained"), **settings)
    _, before = roll_out_anew(setting, scheduler="ddim")
    samples, after = roll_out_anew(setting, trained, scheduler="ddim")
    assert measured(trained, "weight_change")[-1] > 0
    assert not after.equal(before), "the trained policy draws what the one before did"
    adapter = trained if (trained / ADAPTER_WEIGHTS).exists() else None
    pipeline = StableDiffusionPipeline.from_pretrained(
        setting.model if adapter else trained, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    if adapter:
        pipeline.load_lora_weights(adapter, weight_name=ADAPTER_WEIGHTS)
    pipeline.to(setting.device)
    return distance(after, torch.cat([latents_of(pipeline, sample) for sample in samples]))


def latents_of(pipeline: StableDiffusionPipeline, sample: Sample) -> Tensor:
    """[1, channels, height, width], drawn from the sample's noise."""
    shape = (1, 4, sample.height // 8, sample.width // 8)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(sample.seed))
    return pipeline(
        sample.prompt,
        height=sample.height,
        width=sample.width,
        num_inference_steps=sample.num_inference_steps,
        guidance_scale=sample.guidance_scale,
        latents=noise.to(pipeline.device),
        output_type="latent",
    ).images.float()


def scaled_training(setting: Setting) -> float:
    """How far fp16's errors are from fp32's.

    Raises AssertionError unless steps overflowed first, and later ones moved the weights.
    """
    steps = {"max_train_steps": SCALED_STEPS}
    exact = train_anew(setting, setting.pairs, setting.new("fp32"), **steps)
    scaler = partial(torch.amp.GradScaler, init_scale=SCALE)
    with mock.patch.object(torch.amp, "GradScaler", scaler):
        settings = steps | {"mixed_precision": "fp16"}
        half = train_anew(setting, setting.pairs, setting.new("fp16"), **settings)
    norms, moved = measured(half, "grad_norm"), measured(half, "weight_change")
    overflows = norms.index(next(norm for norm in norms if norm is not None))
    assert overflows > 0, "no step overflowed"
    assert not any(moved[:overflows]), "a step that overflowed was taken"
    assert moved[-1] > 0, "no step was taken"
    return largest_difference(half, exact, "reference_winner_error")


@contextmanager
def deterministic() -> Iterator[None]:
    """Kernels that give the same bytes twice, where CUDA has them."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def train_until_killed(setting: Setting, pairs: Path, out: Path, step: int, settings: dict) -> None:
    """Train, and die without a word where `step` would begin."""
    take_step = Trainer.step

    def step_or_die(self, number: int) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        take_step(self, number)

    with deterministic(), mock.patch.object(Trainer, "step", step_or_die):
        train_anew(setting, pairs, out, **settings)


def resume(setting: Setting, **settings) -> float:
    """How many files of a run that was killed differ from those of one that was not."""
    settings |= {"max_train_steps": 3, "checkpointing_steps": 2, "mixed_precision": "bf16"}
    whole, killed = setting.new("whole"), setting.new("killed")
    with deterministic():
        train_anew(setting, setting.pairs, whole, **settings)
    # The process gets paths alone: what is made already is not made again.
    bare = Setting(setting.folder, setting.size)
    bare.__dict__["model"] = setting.model
    arguments = (bare, setting.pairs, killed, 2, settings)
    child = SERVER.Process(target=train_until_killed, args=arguments)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL, f"ended with {child.exitcode}, not by the signal"
    assert saved_steps(killed) == [2]
    with deterministic():
        train_anew(setting, setting.pairs, killed, **settings)
    names = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    compared = {name for name in names if name.suffix in (".safetensors", ".jsonl")}
    assert any(name.suffix == ".safetensors" for name in compared)
    return sum(not same_file(whole / name, killed / name) for name in compared)


def same_file(one: Path, other: Path) -> bool:
    """Weights are compared one by one: their file also names the run."""
    if one.suffix != ".safetensors":
        return one.read_bytes() == other.read_bytes()
    ours, theirs = read_tensors(one), read_tensors(other)
    return ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
