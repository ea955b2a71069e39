"""An open_clip network that compares images with prompts, as in HPSv2."""

import logging
from pathlib import Path
from pickle import UnpicklingError

import open_clip
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from expo_cli.errors import ContractError, UsageError, one_line
from expo_cli.registry import nearest
from expo_cli.rewards.protocol import Batch
from expo_cli.rewards.texts import distinct


class OpenCLIP:
    """An architecture (open_clip name, JSON file or folder) with the weights of a checkpoint.

    Raises UsageError for an unknown name, ContractError when the files are broken, do not fit each
    other, or hold more than tensors.
    """

    def __init__(
        self, architecture: str, weights: Path, device: torch.device, dtype: torch.dtype
    ) -> None:
        name = open_clip_name(architecture)
        # open_clip warns about random weights; the next call loads them.
        logging.disable(logging.WARNING)
        try:
            network = open_clip.create_model(name, load_weights=False)
            open_clip.load_checkpoint(network, str(weights), weights_only=True)
            self.tokenizer = open_clip.get_tokenizer(name)
        except UnpicklingError as error:
            raise ContractError(f"{weights}: holds more than tensors; it is not read") from error
        except Exception as error:  # no common error class
            reason = one_line(str(error))
            raise ContractError(
                f"{weights}: cannot be loaded as {architecture}: {reason[:300]}"
            ) from error
        finally:
            logging.disable(logging.NOTSET)
        self.network = network.requires_grad_(False).eval().to(device, dtype)
        self.device, self.dtype = device, dtype
        preprocessing = open_clip.get_model_preprocess_cfg(network)
        size = preprocessing["size"]
        self.image_size = size if isinstance(size, int) else max(size)
        self.mean, self.std = preprocessing["mean"], preprocessing["std"]

    @torch.inference_mode()
    def compare(self, batch: Batch, antialias: bool) -> tuple[Tensor, Tensor]:
        """Cosine of each image with its prompt [batch], and the images' embeddings [batch, dim]."""
        pixels = torch.stack(
            [fit_into_square(image, self.image_size, antialias) for image in batch.images]
        )
        pixels = transforms.normalize(pixels, self.mean, self.std).to(self.device, self.dtype)
        images = F.normalize(self.network.encode_image(pixels).float(), dim=-1)
        texts, rows = distinct(batch.prompts)
        tokens = self.tokenizer(texts).to(self.device)
        words = F.normalize(self.network.encode_text(tokens).float(), dim=-1)
        return (images * words[rows]).sum(dim=-1), images


def open_clip_name(architecture: str) -> str:
    """The arguments of open_clip's functions for an architecture."""
    path = Path(architecture)
    if path.name == "open_clip_config.json":
        path = path.parent
    if path.is_dir():
        return f"local-dir:{path}"
    if path.is_file():
        try:
            open_clip.add_model_config(path)
        except ValueError as error:
            raise ContractError(f"{path}: {error}") from error
        architecture = path.stem
    if architecture not in open_clip.list_models():
        hint = nearest(architecture, open_clip.list_models())
        raise UsageError(f"open_clip has no architecture {architecture!r}; {hint}")
    return architecture


def fit_into_square(image: Image, size: int, antialias: bool) -> Tensor:
    """An RGB image in [0, 1] with its long side resized to `size`, padded with black to a square:
    [3, size, size].

    HPSv2's preprocessing: bicubic on the tensor, without clamping; an odd row or column of padding
    is added at the bottom or right.
    """
    pixels = transforms.to_tensor(image)
    height, width = pixels.shape[1:]
    scale = size / max(height, width)
    if scale != 1:
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = transforms.resize(
            pixels, [height, width], InterpolationMode.BICUBIC, antialias=antialias
        )
    left, top = (size - width) // 2, (size - height) // 2
    return F.pad(pixels, (left, size - width - left, top, size - height - top))
