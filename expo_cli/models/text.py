"""Embeddings of prompts, as diffusers' pipelines take them from CLIP and T5."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase


def token_ids(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int | None = None
) -> Tensor:
    """[batch, length], padded and truncated; the tokenizer's own length by default."""
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
    """The last hidden layer but one, [batch, 77, dim], and the encoder's own output, which is the
    pooled and projected embedding [batch, dim] where it has a projection."""
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
