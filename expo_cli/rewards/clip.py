"""A CLIP of transformers that compares images with prompts."""

from collections.abc import Sequence

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.clip.modeling_clip import CLIPModel
from transformers.models.clip.tokenization_clip import CLIPTokenizer
from transformers.utils import logging

from expo_cli.contracts.tensors import check_whole
from expo_cli.errors import ContractError, one_line
from expo_cli.rewards.clip_files import CLIPFiles
from expo_cli.rewards.protocol import Batch
from expo_cli.rewards.texts import distinct

logging.disable_progress_bar()


class CLIP:
    """The network, its tokenizer and its image preprocessing, ready on a device.

    Raises ContractError when a part is missing or broken, or the weights are only a pickle.
    """

    def __init__(self, files: CLIPFiles, device: torch.device, dtype: torch.dtype) -> None:
        if not list(files.network.glob("*.safetensors")):
            raise ContractError(f"{files.network}: no *.safetensors; weights must be safetensors")
        try:
            self.network, loading = CLIPModel.from_pretrained(
                str(files.network),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
            self.tokenizer = CLIPTokenizer.from_pretrained(str(files.processor))
            self.image_processor = CLIPImageProcessorPil.from_pretrained(str(files.processor))
        # No common error class.
        except Exception as error:
            reason = one_line(str(error))
            raise ContractError(f"{files.network}: cannot be loaded as a CLIP: {reason}") from error
        check_whole(files.network, "CLIPModel", loading)
        self.network.requires_grad_(False).eval().to(device)
        self.logit_scale = self.network.logit_scale.float().exp().item()
        self.max_length = min(
            self.tokenizer.model_max_length,
            self.network.config.text_config.max_position_embeddings,
        )

    @torch.inference_mode()
    def compare(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Cosine of each image with its prompt [batch], and the images' embeddings [batch, dim]."""
        images = self.embed(batch.images)
        return (images * self.words(batch.prompts)).sum(dim=-1), images

    @torch.inference_mode()
    def embed(self, images: Sequence[Image]) -> Tensor:
        """Normalised embedding of each image, [batch, dim]."""
        return normalised(self.network.get_image_features(self.pixels(images)).pooler_output)

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """The network's input for RGB images, [batch, 3, height, width]."""
        pixels = self.image_processor(list(images), return_tensors="pt").pixel_values
        return pixels.to(self.network.device, self.network.dtype)

    def words(self, prompts: Sequence[str]) -> Tensor:
        """Normalised embedding of each prompt, [batch, dim].

        Long prompts are truncated before their end token.
        """
        texts, rows = distinct(prompts)
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.network.device)
        return normalised(self.network.get_text_features(**tokens).pooler_output)[rows]


def normalised(features: Tensor) -> Tensor:
    return F.normalize(features.float(), dim=-1)
