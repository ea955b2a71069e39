"""Image files, of a rollout or of strangers."""

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

# No others: some readers of Pillow start programs, as Ghostscript for EPS.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
JPEG_START = b"\xff\xd8\xff"
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
# `open_rgb` refuses what it cannot use by itself, in one line; no warning can be caught in one
# thread alone.
warnings.filterwarnings("ignore", module="PIL")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def open_rgb(file: Path | IO[bytes], name: str | None = None) -> Image.Image:
    """A still image as RGB; grey becomes RGB, transparency is laid over white, and what a camera
    held upright stands upright. Of a JPEG with further pictures behind it (a phone's or a drone's
    preview, gain map or second view) it is the first one.

    Raises ContractError, which calls the file `name`, for what has no one right reading (CMYK, 16
    bits, animations) and for files that are missing, truncated, no image, or larger than Pillow's
    limit on pixels. May be called by several threads.
    """
    name = name or str(file)
    if isinstance(file, Path) and file.exists() and not file.is_file():
        raise ContractError(f"{name}: is no regular file")  # to open a pipe would wait for ever
    try:
        with opened(file) as content, read_header(content) as image:
            num_pixels = image.width * image.height
            if num_pixels > Image.MAX_IMAGE_PIXELS:
                raise ContractError(f"{name}: has too many pixels ({image.width}x{image.height})")
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ContractError(f"{name}: has {frames} frames; only stills are used")
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
    except UnidentifiedImageError as error:  # its message has an address, other each time
        raise ContractError(
            f"{name}: cannot be read as an image: is none of {', '.join(FORMATS)}"
        ) from error
    except Image.DecompressionBombError as error:
        raise ContractError(f"{name}: has too many pixels ({error})") from error
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, zlib.error) as error:
        raise ContractError(f"{name}: cannot be read as an image: {error}") from error


def opened(file: Path | IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    return file.open("rb") if isinstance(file, Path) else nullcontext(file)


def read_header(content: IO[bytes]) -> Image.Image:
    """Pillow's image, its pixels not yet read.

    By its own choice Pillow takes a JPEG that has an index of further pictures for an animation.
    """
    is_jpeg = content.read(len(JPEG_START)) == JPEG_START
    content.seek(0)
    return JpegImageFile(content) if is_jpeg else Image.open(content, formats=FORMATS)
