"""How the weights of a checkpoint are made."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def random_weights(full: bool, seed: int = 0) -> Iterator[None]:
    """Networks made in this context depend on `seed` alone; those of full width are made in bf16,
    as fp32 ones would not fit beside each other."""
    before = torch.get_default_dtype()
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.bfloat16 if full else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
