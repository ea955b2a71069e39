"""How far apart the images of two folders are."""

from pathlib import Path

import numpy as np
from PIL import Image


def mean_difference(ours: Path, theirs: Path) -> float:
    """Differences of the PNG files in both folders' `images/`, in 8-bit steps, over all pixels.

    Fails if only one folder has an image.
    """
    names = [{path.name for path in (folder / "images").iterdir()} for folder in (ours, theirs)]
    assert names[0] == names[1], "not the same images"
    pixels = [
        np.stack([np.asarray(Image.open(folder / "images" / name)) for name in sorted(names[0])])
        for folder in (ours, theirs)
    ]
    return float(np.abs(pixels[0].astype(float) - pixels[1]).mean())
