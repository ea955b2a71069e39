"""A CLIP whose vision tower is conditioned on the timestep at which an image was predicted."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPVisionConfig

from expo_cli.contracts.tensors import read_tensors
from expo_cli.errors import ContractError
from expo_cli.rewards.clip import CLIP, normalised
from expo_cli.rewards.clip_files import CLIPFiles
from expo_cli.rewards.protocol import Batch

FREQUENCIES, LONGEST_PERIOD = 128, 10000


class StepCLIP(CLIP):
    """A CLIP with the time conditioning of a safetensors file, or with an untrained one.

    Raises ContractError as `CLIP`, and when the conditioning does not fit the network.
    """

    def __init__(
        self, files: CLIPFiles, conditioning: Path | None, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(files, device, dtype)
        self.conditioning = TimeConditioning(self.network.config.vision_config)
        if conditioning is not None:
            self._read(conditioning)
        self.conditioning.requires_grad_(False).eval().to(device, dtype)

    def _read(self, path: Path) -> None:
        try:
            self.conditioning.load_state_dict(read_tensors(path))
        except RuntimeError as error:
            reason = str(error).splitlines()[1].strip()
            raise ContractError(f"{path}: does not fit the network: {reason}") from error

    @torch.inference_mode()
    def compare_at(self, batch: Batch, timesteps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """As `compare`, for images predicted at `timesteps` [batch]; 0 is a finished image."""
        images = self.images_at(self.pixels(batch.images), torch.tensor(timesteps))
        return (images * self.words(batch.prompts)).sum(dim=-1), images

    def images_at(self, pixels: Tensor, timesteps: Tensor) -> Tensor:
        """Normalised embeddings [batch, dim] of the output of `pixels` at timesteps [batch].

        The forward pass of transformers' CLIPVisionModel with adaLN as in DiT
        (https://arxiv.org/abs/2212.09748): a scale and shift after each norm, and a gate on each
        residual, all of them functions of the timestep.
        """
        tower, conditioning = self.network.vision_model, self.conditioning
        time = conditioning.time(timesteps.to(pixels.device))
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer, modulation in zip(tower.encoder.layers, conditioning.layers, strict=True):
            shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation(time).chunk(6, dim=-1)
            inputs = layer.layer_norm1(hidden) * (1 + scale) + shift
            hidden = hidden + (1 + gate) * layer.self_attn(inputs, attention_mask=None)[0]
            inputs = layer.layer_norm2(hidden) * (1 + mlp_scale) + mlp_shift
            hidden = hidden + (1 + mlp_gate) * layer.mlp(inputs)
        shift, scale = conditioning.last(time).chunk(2, dim=-1)
        pooled = tower.post_layernorm(hidden[:, :1]) * (1 + scale) + shift
        return normalised(self.network.visual_projection(pooled.squeeze(1)))


class TimeConditioning(nn.Module):
    """Shifts, scales and gates of each layer of a vision tower as functions of the timestep.

    They are initialised to 0, so that untrained ones have no effect.
    """

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.embedding = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        for linear in (self.embedding[0], self.embedding[2]):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.layers = nn.ModuleList(zeros(width, 6) for _ in range(config.num_hidden_layers))
        self.last = zeros(width, 2)

    def time(self, timesteps: Tensor) -> Tensor:
        """The embedding of timesteps [batch] that the modulations take, [batch, 1, width]."""
        waves = sinusoids(timesteps).to(self.last.weight.dtype)
        return self.embedding(waves).unsqueeze(1)


def zeros(width: int, num_outputs: int) -> nn.Linear:
    linear = nn.Linear(width, num_outputs * width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def sinusoids(timesteps: Tensor) -> Tensor:
    """Cosines and sines of timesteps [batch], from slow to fast as in DDPM: [batch, 256]."""
    exponents = torch.arange(FREQUENCIES, device=timesteps.device) / FREQUENCIES
    angles = timesteps[:, None].float() * torch.exp(-math.log(LONGEST_PERIOD) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
