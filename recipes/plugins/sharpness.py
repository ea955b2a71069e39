"""Your own reward as a class: how sharp an image is.

    PYTHONPATH=recipes/plugins expo score run/main --reward sharp=sharpness.Sharpness:radius=2

The fields of the dataclass are its options.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from expo_cli.rewards.protocol import Batch, Judgement, Reward


@dataclass
class Sharpness(Reward):
    """The mean difference between an image and its copy blurred by `radius` pixels, in 8-bit steps."""

    radius: float = 1.0

    def identity(self) -> dict[str, Any]:
        """Everything that determines a score; scores with different identities are not mixed."""
        return {"version": 1, "radius": self.radius}

    def load(self, device: Any, dtype: Any) -> None:
        """Nothing to load. A network would be loaded here, onto `device`."""

    def judge(self, batch: Batch) -> Judgement:
        return Judgement([self.sharpness(image) for image in batch.images])

    def sharpness(self, image: Image.Image) -> float:
        blurred = image.filter(ImageFilter.GaussianBlur(self.radius))
        return float(np.abs(np.asarray(image, float) - np.asarray(blurred, float)).mean())
