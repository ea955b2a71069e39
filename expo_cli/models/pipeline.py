"""What all families share: a trained network, a VAE, and the folder of both."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from expo_cli.models.component import load_component, load_config
from expo_cli.models.protocol import Conditioning, TextEncoder
from expo_cli.models.text import TextEncoders
from expo_cli.models.vae import Geometry, VAEDecoder


class Pipeline(ABC):
    """A family names its network and defines prompts, noise and samplers.

    Parts that are not always needed, such as text encoders, are loaded on first use.
    """

    network_name: ClassVar[str]
    network_class: ClassVar[type]
    text_class: ClassVar[type[TextEncoders]]

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.folder, self.device, self.dtype = folder, device, dtype
        network = load_component(self.network_class, folder, self.network_name, dtype)
        self.network = network.to(device)
        self.geometry = self.read_geometry(folder)

    @classmethod
    @abstractmethod
    def read_geometry(cls, folder: Path) -> Geometry:
        """The sizes, from the configs in a pipeline folder alone."""

    @classmethod
    def network_config(cls, folder: Path) -> dict[str, Any]:
        return load_config(cls.network_class, folder, cls.network_name)

    @property
    def latent_channels(self) -> int:
        return self.network.config.in_channels

    @cached_property
    def text(self) -> TextEncoder:
        return self.text_class(self.folder, self.device, self.dtype)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return self.text.encode(prompts)

    @cached_property
    def _decoder(self) -> VAEDecoder:
        return VAEDecoder(self.folder, self.device, self.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        return self._decoder.decode(latents)

    def set_dtype(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        # diffusers' own `to` warns about modules to keep in fp32; these networks have none.
        nn.Module.to(self.network, dtype)

    def image_size(self) -> int:
        return self.geometry.image_size

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return (self.latent_channels, *self.geometry.latent_size(height, width))

    @contextmanager
    def reference(self) -> Iterator[None]:
        self.network.disable_adapters()
        try:
            yield
        finally:
            self.network.enable_adapters()
