"""Flow matching: x_t = (1 - sigma) x_0 + sigma noise, with a network that predicts the velocity.

Rectified flow as in Esser et al., arXiv 2403.03206. Diffusion-DPO's margin is then a difference of
errors in the velocity (Liu et al., arXiv 2501.13918, section 3.2, with a constant beta).
"""

from abc import abstractmethod
from pathlib import Path

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from expo_cli.errors import UsageError
from expo_cli.models.component import load_component
from expo_cli.models.families import FLOW_MATCH_EULER
from expo_cli.models.pipeline import Pipeline


class FlowMatchEuler(FlowMatchEulerDiscreteScheduler):
    """diffusers' sampler, with two attributes of its other samplers that it lacks."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return sample


class FlowMatching(Pipeline):
    """Noise, targets and samplers; a family adds its network and text encoders.

    The timestep is `num_train_timesteps * sigma`.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self.schedule = load_component(FlowMatchEulerDiscreteScheduler, folder, "scheduler")
        self.num_train_timesteps = self.schedule.config.num_train_timesteps

    @abstractmethod
    def draw_position(self, generator: torch.Generator) -> float:
        """The place of a visit among the training timesteps, from 0 (pure noise) to 1."""

    def training_timestep(self, generator: torch.Generator) -> float:
        """As in diffusers' scripts: a place among the scheduler's timesteps, which include its shift."""
        place = int(self.draw_position(generator) * self.num_train_timesteps)
        return float(self.schedule.timesteps[min(place, self.num_train_timesteps - 1)])

    def sigma(self, timesteps: Tensor) -> Tensor:
        """[batch, 1, 1, 1]"""
        return (timesteps.float() / self.num_train_timesteps).view(-1, 1, 1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        sigma = self.sigma(timesteps)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - latents

    def epsilon(self, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        return latents + (1 - self.sigma(timesteps)) * prediction

    def make_scheduler(self, name: str) -> FlowMatchEuler:
        if name != FLOW_MATCH_EULER:
            raise UsageError(f"{name} does not work with a flow matching model: {FLOW_MATCH_EULER}")
        return FlowMatchEuler.from_config(self.schedule.config)

    def dynamic_shift(self, num_patches: int) -> float:
        """diffusers' `mu`: linear in the number of image tokens, between two points of the config."""
        config = self.schedule.config
        low, high = config.base_image_seq_len, config.max_image_seq_len
        slope = (config.max_shift - config.base_shift) / (high - low)
        return config.base_shift + slope * (num_patches - low)
