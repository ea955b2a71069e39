"""Small images, embedded in a page as data URIs."""

import base64
import io
from pathlib import Path

from PIL import Image

from expo_cli.contracts.images import open_rgb

MAX_SIDE = 192


def data_uri(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def thumbnail(path: Path) -> bytes:
    """The image as WebP of at most MAX_SIDE pixels; lossless if it was not resized.

    Raises ContractError as `open_rgb`.
    """
    picture = open_rgb(path)
    small = max(picture.size) <= MAX_SIDE
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "WEBP", lossless=small, quality=85)
    return content.getvalue()
