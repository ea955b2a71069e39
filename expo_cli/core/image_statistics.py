"""Image figures that need no reward: colour drift, clipping, broken images.

All functions take RGB images in [0, 1], [batch, 3, height, width], and return one value per image.
"""

import torch
from torch import Tensor

from expo_cli.contracts.records import Checks

# Rec. 601 luma, the grey of PIL's convert("L").
LUMA = (0.299, 0.587, 0.114)
# Half of an 8-bit step: closer to 0 or 1 than this, a value is stored as 0 or 255.
HALF_STEP = 0.5 / 255
# An image whose brightest value is below this is black; SD's safety checker returns exact zeros.
BLACK_BELOW = 4 / 255


def luma(images: Tensor) -> Tensor:
    """Grey value of each pixel (Rec. 601): [batch, 3, height, width] -> [batch, height, width]."""
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA))


def saturation(images: Tensor) -> Tensor:
    """Mean HSV saturation, (max - min) / max of a pixel's channels, 0 where black: [batch].

    A. R. Smith, Color Gamut Transform Pairs, SIGGRAPH 1978.
    """
    brightest, darkest = images.amax(dim=1), images.amin(dim=1)
    ratio = (brightest - darkest) / brightest.clamp(min=1e-12)
    return ratio.mean(dim=(1, 2))


def contrast(images: Tensor) -> Tensor:
    """RMS contrast, the standard deviation of luma over the pixels: [batch].

    E. Peli, Contrast in complex images, JOSA A 7(10), 1990.
    """
    return luma(images).flatten(start_dim=1).std(dim=1, correction=0)


def colorfulness(images: Tensor) -> Tensor:
    """M3 = sqrt(var_rg + var_yb) + 0.3 sqrt(mean_rg^2 + mean_yb^2) in 8-bit units: [batch].

    With rg = R - G and yb = (R + G) / 2 - B. About 15 is slightly, 45 averagely and 82 highly
    colourful: D. Hasler, S. Suesstrunk, Measuring colourfulness in natural images, SPIE 2003.
    """
    red, green, blue = (255 * images).unbind(dim=1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1).flatten(start_dim=2)
    spread = opponents.var(dim=2, correction=0).sum(dim=1).sqrt()
    offset = opponents.mean(dim=2).square().sum(dim=1).sqrt()
    return spread + 0.3 * offset


def clipped(images: Tensor) -> Tensor:
    """Share of channel values that an 8-bit file stores as 0 or 255: [batch]."""
    at_end = (images < HALF_STEP) | (images > 1 - HALF_STEP)
    return at_end.to(images.dtype).mean(dim=(1, 2, 3))


def edge_energy(images: Tensor) -> Tensor:
    """Mean squared luma difference of horizontal and vertical neighbours, summed: [batch].

    The image's gradient energy in forward differences. Blur lowers it; noise, grids and
    over-sharpening raise it.
    """
    grey = luma(images)
    return grey.diff(dim=1).square().mean(dim=(1, 2)) + grey.diff(dim=2).square().mean(dim=(1, 2))


def image_checks(images: Tensor) -> list[Checks]:
    """All figures of each image: [batch, 3, height, width] -> batch records.

    Values outside [0, 1] are clamped, as in a file. An image with values that are not finite
    has `nan` set; the other figures treat them as 0.
    """
    images = images.detach().float()
    broken = ~images.isfinite().all(dim=(1, 2, 3))
    images = images.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0, 1)
    columns = {
        "nan": broken,
        "black": images.amax(dim=(1, 2, 3)) < BLACK_BELOW,
        "saturation": saturation(images),
        "contrast": contrast(images),
        "colorfulness": colorfulness(images),
        "clipped": clipped(images),
        "edge_energy": edge_energy(images),
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [Checks(**dict(zip(columns, row, strict=True))) for row in rows]
