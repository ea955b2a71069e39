"""Ways in which pictures on the web are bad, and the words people use for them.

An image is a tensor [3, height, width] in 0..1. Every function draws its strength from `generator`.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

GRAY = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
RGB_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def uniform(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator).item()


def blur(image: Tensor, generator: Generator) -> Tensor:
    return gaussian_blur(image, [13, 13], [uniform(1.0, 2.4, generator)] * 2)


def add_noise(image: Tensor, generator: Generator) -> Tensor:
    noise = torch.randn(image.shape, generator=generator)
    return image + uniform(0.1, 0.28, generator) * noise


def turn_hue(image: Tensor, generator: Generator) -> Tensor:
    angle = uniform(math.pi / 3, 5 * math.pi / 3, generator)
    turn = torch.eye(3)
    turn[1:, 1:] = torch.tensor(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )
    matrix = torch.linalg.inv(RGB_TO_YIQ) @ turn @ RGB_TO_YIQ
    return torch.einsum("ij,jhw->ihw", matrix, image)


def oversaturate(image: Tensor, generator: Generator) -> Tensor:
    gray = (GRAY * image).sum(0, keepdim=True)
    vivid = gray + uniform(2.2, 4.0, generator) * (image - gray)
    return (vivid - 0.5) * uniform(1.0, 1.6, generator) + 0.5


def fade(image: Tensor, generator: Generator) -> Tensor:
    gray = (GRAY * image).sum(0, keepdim=True)
    dull = gray + uniform(0.1, 0.5, generator) * (image - gray)
    return 0.65 + uniform(0.25, 0.6, generator) * (dull - 0.65)


def lower_resolution(image: Tensor, generator: Generator) -> Tensor:
    size = round(uniform(10, 20, generator))
    small = F.interpolate(image[None], (size, size), mode="area")
    return F.interpolate(small, image.shape[-2:], mode="nearest")[0]


def warp(image: Tensor, generator: Generator) -> Tensor:
    coarse = torch.randn(1, 2, 5, 5, generator=generator) * uniform(0.1, 0.24, generator)
    shift = F.interpolate(coarse, image.shape[-2:], mode="bicubic", align_corners=True)
    grid = F.affine_grid(torch.eye(2, 3)[None], [1, *image.shape], align_corners=False)
    grid = grid + shift.permute(0, 2, 3, 1)
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


FLAWS: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "distorted": warp,
    "wrong colors": turn_hue,
    "oversaturated": oversaturate,
    "faded": fade,
    "blurry": blur,
    "low resolution": lower_resolution,
    "noisy": add_noise,
}


def draw_flaws(generator: Generator) -> list[str]:
    """Mostly one flaw, sometimes two or three, in the order in which they are named."""
    count = 1 + int(torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 1, generator=generator))
    order = torch.randperm(len(FLAWS), generator=generator)[:count]
    return [list(FLAWS)[index] for index in order]


def degrade(image: Tensor, flaws: list[str], generator: Generator) -> Tensor:
    """Apply the named flaws, noise last whatever the order of the words."""
    for name, flaw in FLAWS.items():
        if name in flaws:
            image = flaw(image, generator).clamp(0, 1)
    return image


def degraded_copies(images: Tensor, copies: int, seed: int) -> tuple[Tensor, list[list[str]]]:
    """`copies` flawed versions of each uint8 image [count, 3, height, width], and their flaws.

    The versions of one image follow each other.
    """
    generator = Generator().manual_seed(seed)
    pictures, flaws = [], []
    for image in images.repeat_interleave(copies, dim=0):
        flaws.append(draw_flaws(generator))
        picture = degrade(image.float() / 255, flaws[-1], generator)
        pictures.append((picture * 255).round().to(torch.uint8))
    return torch.stack(pictures), flaws
