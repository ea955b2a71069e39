"""Noise as a function of seeds, so that results do not depend on batches, workers or machines.

The seeds are in `contracts.ids`; which samples of a pair share noise, in `stages.train.pair_evidence`.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Timestep = TypeVar("Timestep", int, float)


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per seed: the same numbers whatever the model's device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def normal(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=generator)


def training_noise(
    seed: int, shape: tuple[int, ...], draw_timestep: Callable[[torch.Generator], Timestep]
) -> tuple[Tensor, Timestep]:
    """The training noise and timestep of a seed (see `contracts.ids.pair_seed`)."""
    generator = torch.Generator().manual_seed(seed)
    timestep = draw_timestep(generator)
    return normal(generator, shape), timestep


def uniform_timestep(num_train_timesteps: int) -> Callable[[torch.Generator], int]:
    """Draws from 0 to `num_train_timesteps` - 1."""
    return lambda generator: int(torch.randint(num_train_timesteps, (), generator=generator))
