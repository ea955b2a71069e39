"""Encodes prompts with CLIP and T5 as diffusers' pipelines do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from expo_cli.models.component import load_component
from expo_cli.models.families import has_t5
from expo_cli.models.protocol import Conditioning


class TextEncoders(ABC):
    """The tokenizers and text encoders of a pipeline folder; see `protocol.TextEncoder`.

    Each family loads its own encoders and embeds a batch of prompts with them.
    """

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        self.folder, self.device, self.dtype = folder, device, dtype
        self.has_t5 = has_t5(folder)
        self.cut: set[str] = set()

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Conditioning: ...

    @abstractmethod
    def reads_most(self) -> tuple[PreTrainedTokenizerBase, int]:
        """The tokenizer of the encoder with the longest input, and that length in tokens."""

    def is_cut(self, prompt: str) -> bool:
        """Whether the prompt is too long for every encoder."""
        tokenizer, length = self.reads_most()
        # A token has at least one byte, and two tokens are start and end marks.
        return len(prompt.encode()) > length - 2 and len(tokenizer(prompt).input_ids) > length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """With T5, prompts are encoded one by one: the batch size changes the last bits, and cached
        embeddings must be the same in every run."""
        self.cut.update(filter(self.is_cut, prompts))
        if not self.has_t5:
            return self.embed(prompts)
        return Conditioning.concatenate([self.embed([prompt]) for prompt in prompts])

    def load_tokenizer(self, cls: type, name: str) -> Any:
        return load_component(cls, self.folder, name)

    def load_encoder(self, cls: type, name: str) -> Any:
        return load_component(cls, self.folder, name, self.dtype).to(self.device)


def token_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int | None = None
) -> Tensor:
    """Token ids [batch, length], padded and truncated; the default length is the tokenizer's."""
    return tokenizer(
        list(prompts),
        padding="max_length",
        max_length=length or tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def clip_embeddings(
    tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel, prompts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """The penultimate hidden layer, [batch, 77, dim], and the encoder's first output, the pooled and
    projected embedding [batch, dim] if it has a projection."""
    output = encoder(token_ids(tokenizer, prompts).to(encoder.device), output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def t5_embeddings(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    prompts: Sequence[str],
    length: int,
) -> Tensor:
    """[batch, length, dim]; padding is not masked, as in diffusers' pipelines."""
    return encoder(token_ids(tokenizer, prompts, length).to(encoder.device))[0]


def zeros_where(empty: Sequence[bool], embeddings: Tensor) -> Tensor:
    mask = torch.tensor(list(empty), device=embeddings.device)
    return embeddings.masked_fill(mask.view(-1, *[1] * (embeddings.dim() - 1)), 0)
