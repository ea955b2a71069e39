"""Writes images as files, in the formats of rollouts and exports."""

import io
from typing import Literal

from PIL import Image

ImageFormat = Literal["png", "webp", "jpg"]

PILLOW_SETTINGS = {
    "png": {"compress_level": 4},
    "webp": {"quality": 90},
    "jpg": {"quality": 95},
}


def image_bytes(image: Image.Image, image_format: ImageFormat) -> bytes:
    buffer = io.BytesIO()
    pillow_format = "jpeg" if image_format == "jpg" else image_format
    image.save(buffer, format=pillow_format, **PILLOW_SETTINGS[image_format])
    return buffer.getvalue()
