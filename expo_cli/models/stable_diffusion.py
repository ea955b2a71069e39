"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet, epsilon or v-prediction."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPTextModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer

from expo_cli.errors import ContractError, UsageError
from expo_cli.models.component import load_component, load_config
from expo_cli.models.protocol import Conditioning
from expo_cli.models.schedulers import make_scheduler


class StableDiffusionDecoder:
    """The VAE's decoder alone."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.vae = load_component(AutoencoderKL, folder, "vae", dtype).to(device)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.vae.device, self.vae.dtype) / self.vae.config.scaling_factor
        return (self.vae.decode(latents).sample.float() / 2 + 0.5).clamp(0, 1)


class StableDiffusionEncoder:
    """The VAE's encoder alone."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.vae = load_component(AutoencoderKL, folder, "vae", dtype).to(device)
        self.unet_config = load_config(UNet2DConditionModel, folder, "unet")

    def image_size(self) -> int:
        return self.unet_config["sample_size"] * pixels_a_latent(self.vae.config)

    def multiple(self) -> int:
        return size_multiple(self.vae.config, self.unet_config)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        scale = self.vae.config.scaling_factor
        return posterior.mean.float() * scale, posterior.std.float() * scale


def pixels_a_latent(vae_config: Mapping[str, Any]) -> int:
    """In each direction."""
    return 2 ** (len(vae_config["block_out_channels"]) - 1)


def size_multiple(vae_config: Mapping[str, Any], unet_config: Mapping[str, Any]) -> int:
    """Pixels that height and width are a multiple of, so that VAE and UNet can halve them."""
    return pixels_a_latent(vae_config) * 2 ** (len(unet_config["block_out_channels"]) - 1)


class StableDiffusion:
    """A folder in the layout of diffusers' StableDiffusionPipeline; see `protocol.DiffusionModel`.

    The safety checker is not run: `Sample.checks` tells of black images.
    """

    decoder = StableDiffusionDecoder
    encoder = StableDiffusionEncoder
    network_name = "unet"

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.folder, self.device, self.dtype = folder, device, dtype
        self.tokenizer = load_component(CLIPTokenizer, folder, "tokenizer")
        self.network = load_component(UNet2DConditionModel, folder, "unet", dtype).to(device)
        # Only its noise schedule and prediction type are used; samplers are made from its config.
        self.schedule = load_component(DDPMScheduler, folder, "scheduler")
        if self.schedule.config.prediction_type not in ("epsilon", "v_prediction"):
            raise ContractError(
                f"{folder / 'scheduler'}: prediction_type {self.schedule.config.prediction_type!r} "
                "is not supported; epsilon and v_prediction are"
            )
        self.num_train_timesteps = self.schedule.config.num_train_timesteps
        self.vae_config = load_config(AutoencoderKL, folder, "vae")

    # The parts that a frozen reference or a finished embedding never needs are loaded when used.
    @cached_property
    def text_encoder(self) -> CLIPTextModel:
        return load_component(CLIPTextModel, self.folder, "text_encoder", self.dtype).to(
            self.device
        )

    @cached_property
    def _decoder(self) -> StableDiffusionDecoder:
        return StableDiffusionDecoder(self.folder, self.device, self.dtype)

    def set_dtype(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        # diffusers' own `to` warns of modules to keep in fp32, of which this network has none.
        nn.Module.to(self.network, dtype)

    def image_size(self) -> int:
        return self.network.config.sample_size * pixels_a_latent(self.vae_config)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        multiple = size_multiple(self.vae_config, self.network.config)
        for name, size in (("height", height), ("width", width)):
            if size % multiple:
                raise UsageError(f"--{name} must be a multiple of {multiple}, got {size}")
        return (
            self.network.config.in_channels,
            height // pixels_a_latent(self.vae_config),
            width // pixels_a_latent(self.vae_config),
        )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return Conditioning(self.text_encoder(tokens.input_ids.to(self.device))[0])

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return self.network(
            latents.to(self.device, self.dtype),
            timesteps.to(self.device),
            encoder_hidden_states=conditioning.prompt_embeds,
            return_dict=False,
        )[0]

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

    def alphas_cumprod(self) -> Tensor:
        return self.schedule.alphas_cumprod

    def decode(self, latents: Tensor) -> Tensor:
        return self._decoder.decode(latents)

    @contextmanager
    def reference(self) -> Iterator[None]:
        self.network.disable_adapters()
        try:
            yield
        finally:
            self.network.enable_adapters()
