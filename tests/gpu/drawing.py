"""Checks of `expo rollout`."""

from unittest import mock

import torch

from expo_cli.config import RolloutConfig, RunOptions
from expo_cli.contracts.records import Sample
from expo_cli.contracts.rollouts import open_rollout
from expo_cli.contracts.tensors import read_tensors
from expo_cli.models.stable_diffusion import StableDiffusion
from expo_cli.stages.rollout.plan import roll_out
from tests.gpu.setting import Setting, distance

QUIET = RunOptions(quiet=True)


def roll_out_anew(
    setting: Setting, policy: object = None, **settings
) -> tuple[list[Sample], torch.Tensor]:
    """The samples of a new rollout, and their latents [samples, channels, height, width]."""
    sizes, folder = setting.sizes, setting.new("rollout")
    drawing = {
        "num_images_per_prompt": sizes.images_per_prompt,
        "num_inference_steps": sizes.sampling_steps,
        "height": sizes.pixels,
        "width": sizes.pixels,
        "dtype": "fp32",
        "guidance_scale": 3.0,
    }
    config = RolloutConfig(policy=str(policy or setting.model), **drawing | settings)
    roll_out(setting.prompts, folder, config, QUIET, "0/1")
    rollout = open_rollout(folder)
    samples, latents = list(rollout.samples(0)), read_tensors(rollout.latents_path(0))
    return samples, torch.stack([latents[sample.sample_id].float() for sample in samples])


def bf16_rollout(setting: Setting) -> float:
    _, exact = roll_out_anew(setting)
    _, rounded = roll_out_anew(setting, dtype="bf16")
    return distance(rounded, exact)


def batch_independence(setting: Setting) -> float:
    _, together = roll_out_anew(setting)
    _, alone = roll_out_anew(setting, batch_size=1)
    return distance(alone, together)


def first_noise(setting: Setting) -> float:
    """The largest distance of what the network sees first from what the CPU draws of the seeds."""
    seen = []
    predict = StableDiffusion.predict

    def watched(self, latents, timesteps, conditioning):
        seen.append(latents.float().cpu())
        return predict(self, latents, timesteps, conditioning)

    with mock.patch.object(StableDiffusion, "predict", watched):
        samples, _ = roll_out_anew(setting, num_inference_steps=1, guidance_scale=1.0)
    noise = [
        torch.randn(seen[0].shape[1:], generator=torch.Generator().manual_seed(sample.seed))
        for sample in samples
    ]
    return (torch.cat(seen) - torch.stack(noise)).abs().max().item()
