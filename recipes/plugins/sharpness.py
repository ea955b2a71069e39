"""A reward of one's own, as a class: how sharp an image is.

    PYTHONPATH=recipes/plugins expo score run/main --reward sharp=sharpness.Sharpness:radius=2

Options are the fields of the dataclass.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from expo_cli.rewards.protocol import Batch, Judgement, Reward


@dataclass
class Sharpness(Reward):
    """The mean difference between the image and itself blurred by `radius` pixels, in 8-bit steps."""

    radius: float = 1.0

    def identity(self) -> dict[str, Any]:
        """Whatever determines a score; scores of another identity are not mixed with these."""
        return {"version": 1, "radius": self.radius}

    def load(self, device: Any, dtype: Any) -> None:
        """Nothing to load. A network would be loaded here, onto `device`."""

    def judge(self, batch: Batch) -> Judgement:
        return Judgement([self.sharpness(image) for image in batch.images])

    def sharpness(self, image: Image.Image) -> float:
        blurred = image.filter(ImageFilter.GaussianBlur(self.radius))
        return float(np.abs(np.asarray(image, float) - np.asarray(blurred, float)).mean())
