"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, epsilon or v-prediction."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from expo_cli.core.noise import uniform_timestep
from expo_cli.errors import ContractError
from expo_cli.models.component import load_component
from expo_cli.models.pipeline import Pipeline
from expo_cli.models.protocol import Conditioning
from expo_cli.models.schedulers import make_scheduler
from expo_cli.models.text import TextEncoders, token_ids
from expo_cli.models.vae import Geometry, pixels_per_latent


class StableDiffusionText(TextEncoders):
    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        self.clip_tokenizer = self.load_tokenizer(CLIPTokenizer, "tokenizer")
        self.clip = self.load_encoder(CLIPTextModel, "text_encoder")

    def embed(self, prompts: Sequence[str]) -> Conditioning:
        ids = token_ids(self.clip_tokenizer, prompts).to(self.device)
        return Conditioning(self.clip(ids)[0])

    def reads_most(self) -> tuple[CLIPTokenizer, int]:
        return self.clip_tokenizer, self.clip_tokenizer.model_max_length


class StableDiffusion(Pipeline):
    """A folder in the layout of diffusers' StableDiffusionPipeline; see `protocol.DiffusionModel`.

    The safety checker is not run; `Sample.checks` reports black images.
    """

    network_name = "unet"
    network_class = UNet2DConditionModel
    text_class = StableDiffusionText

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(folder, device, dtype)
        # Used for its noise schedule and prediction type only; samplers are made from its config.
        self.schedule = load_component(DDPMScheduler, folder, "scheduler")
        if self.schedule.config.prediction_type not in ("epsilon", "v_prediction"):
            raise ContractError(
                f"{folder / 'scheduler'}: prediction_type {self.schedule.config.prediction_type!r} "
                "is not supported; epsilon and v_prediction are"
            )
        self.num_train_timesteps = self.schedule.config.num_train_timesteps
        if len(self.schedule.betas) != self.num_train_timesteps:
            raise ContractError(
                f"{folder / 'scheduler'}: has {len(self.schedule.betas)} betas for "
                f"{self.num_train_timesteps} timesteps"
            )

    @classmethod
    def read_geometry(cls, folder: Path) -> Geometry:
        pixels = pixels_per_latent(folder)
        return Geometry(cls.network_config(folder)["sample_size"] * pixels, pixels, pixels)

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return self.network(
            latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=conditioning.prompt_embeds,
            return_dict=False,
        )[0]

    def training_timestep(self, generator: torch.Generator) -> int:
        return uniform_timestep(self.num_train_timesteps)(generator)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self.schedule.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        if self.schedule.config.prediction_type == "v_prediction":
            return self.schedule.get_velocity(latents, noise, timesteps)
        return noise

    def epsilon(self, prediction: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        if self.schedule.config.prediction_type == "epsilon":
            return prediction
        alpha = self.alphas_cumprod()[timesteps.cpu()].to(prediction.device)
        alpha = alpha.view(-1, *[1] * (prediction.dim() - 1))
        return alpha.sqrt() * prediction + (1 - alpha).sqrt() * latents

    def make_scheduler(self, name: str) -> SchedulerMixin:
        return make_scheduler(name, dict(self.schedule.config))

    def set_timesteps(
        self, scheduler: SchedulerMixin, num_inference_steps: int, shape: tuple[int, int, int]
    ) -> None:
        scheduler.set_timesteps(num_inference_steps)

    def alphas_cumprod(self) -> Tensor:
        """abar of the noise schedule, [num_train_timesteps], on the CPU."""
        return self.schedule.alphas_cumprod
