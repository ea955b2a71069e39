"""Reads image files, from a rollout or from outside."""

import logging
import struct
import warnings
import zlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from expo_cli.errors import ContractError

# Only these: some of Pillow's readers start programs, such as Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
JPEG_START = b"\xff\xd8\xff"
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
# `open_rgb` itself refuses what it cannot use; warnings cannot be caught in a single thread.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def open_rgb(file: Path | IO[bytes], name: str | None = None) -> Image.Image:
    """A still image as RGB: grey is converted, transparency becomes white, and the EXIF orientation
    is applied. Of a JPEG with several pictures (preview, gain map, second view), the first one.

    Raises ContractError, which calls the file `name`, for ambiguous content (CMYK, 16 bits,
    animations) and for files that are missing, truncated, not an image, or above Pillow's limit on
    pixels. Thread-safe.
    """
    name = name or str(file)
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise ContractError(f"{name}: is not a regular file")  # opening a pipe would block
    try:
        with opened(file) as content, read_header(content) as image:
            num_pixels = image.width * image.height
            if num_pixels > Image.MAX_IMAGE_PIXELS:
                raise ContractError(f"{name}: has too many pixels ({image.width}x{image.height})")
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ContractError(f"{name}: has {frames} frames; only still images are used")
            if image.mode not in MODES:
                raise ContractError(f"{name}: is {image.mode}; convert it to 8-bit RGB first")
            image.load()
            image = ImageOps.exif_transpose(image)
            if not image.has_transparency_data:
                return image.convert("RGB")
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(white, image).convert("RGB")
    except FileNotFoundError as error:
        raise ContractError(f"{name}: no such image") from error
    except UnidentifiedImageError as error:  # Pillow's message contains a memory address
        raise ContractError(
            f"{name}: cannot be read as an image: is not one of {', '.join(FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise ContractError(f"{name}: has too many pixels ({error})") from error
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, zlib.error) as error:
        raise ContractError(f"{name}: cannot be read as an image: {error}") from error


def opened(file: Path | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    return file.open("rb") if isinstance(file, Path) else nullcontext(file)


def read_header(content: IO[bytes]) -> Image.Image:
    """Pillow's image, before its pixels are read.

    Pillow would open a JPEG with an index of further pictures as an animation.
    """
    is_jpeg = content.read(len(JPEG_START)) == JPEG_START
    content.seek(0)
    return JpegImageFile(content) if is_jpeg else Image.open(content, formats=FORMATS)
