"""Images, damaged or made to do harm: the same picture, or one line."""

import gzip
import io
import itertools
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from expo_cli.contracts.images import FORMATS, open_rgb
from expo_cli.report.pictures import thumbnail
from tests.hostile.damage import bytes_changed, every, read_or_fault, truncations

# pytest resets the filter by which `contracts.images` silences Pillow.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encoded(image_format: str, mode: str = "RGB", **settings) -> bytes:
    pixels = random.Random(0).randbytes(12 * 9 * 3)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (12, 9), pixels).convert(mode).save(buffer, image_format, **settings)
    return buffer.getvalue()


def animated(image_format: str) -> bytes:
    first, *others = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
    buffer = io.BytesIO()
    first.save(buffer, image_format, save_all=True, append_images=others)
    return buffer.getvalue()


def phone_picture(picture: Image.Image, **settings) -> bytes:
    """A JPEG with an index of the smaller, blue picture that follows it (CIPA DC-007)."""
    buffer = io.BytesIO()
    preview = Image.new("RGB", (8, 8), "blue")
    picture.save(buffer, "MPO", save_all=True, append_images=[preview], quality=95, **settings)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, before: bytes = b"", pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + before + body


def bmp(width: int, height: int) -> bytes:
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + sizes


def harmful() -> dict[str, bytes]:
    zeros = zlib.compress(bytes(100_000_000))
    return {
        "10^12 pixels": png(10**6, 10**6),
        "2^62 pixels": png(2**31 - 1, 2**31 - 1),
        "no pixels": png(0, 0),
        "80 million pixels, none there": png(9000, 9000),
        "a text of 100 MB": png(1, 1, chunk(b"zTXt", b"k\0\0" + zeros)),
        "an international text of 100 MB": png(1, 1, chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)),
        "a profile of 100 MB": png(1, 1, chunk(b"iCCP", b"k\0\0" + zeros)),
        "a BMP of 2^62 pixels": bmp(2**31 - 1, 2**31 - 1),
        "a BMP of negative height": bmp(-5, -(2**31)),
        "a GIF of 2^32 pixels": b"GIF89a"
        + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0)
        + bytes(6)
        + b","
        + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0)
        + b"\2\1\0\0;",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(%pipe%id) (r) file\n",
        "PDF": b"%PDF-1.4\n",
        "PPM": b"P6 1 1 255\n\0\0\0",
        "ICO": encoded("ICO"),
        "HTML": b"<html></html>",
        "gzip": gzip.compress(encoded("PNG")),
        "nothing": b"",
        "CMYK": encoded("JPEG", "CMYK"),
        "16 bits": encoded("TIFF", "I;16"),
        "floats": encoded("TIFF", "F"),
        **{f"an animated {name}": animated(name) for name in ("PNG", "GIF", "WEBP", "TIFF")},
    }


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_damaged_image_is_an_image_or_one_line(image_format):
    good = encoded(image_format)
    others = [
        encoded(image_format, mode) for mode in ("L", "P") if (image_format, mode) != ("JPEG", "P")
    ]

    def check(data: bytes) -> None:
        image = read_or_fault(lambda: open_rgb(io.BytesIO(data), "i.png"), "i.png: ")
        assert image is None or image.mode == "RGB"

    every(
        itertools.chain(bytes_changed(good, 800), *(bytes_changed(other, 200) for other in others)),
        check,
    )


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_truncated_image_is_never_half_a_picture(image_format):
    """What is lost may be the end mark, but no pixel."""
    good = encoded(image_format)
    picture = open_rgb(io.BytesIO(good)).tobytes()

    def check(data: bytes) -> None:
        image = read_or_fault(lambda: open_rgb(io.BytesIO(data), "i.png"), "i.png: ")
        assert image is None or image.tobytes() == picture

    every(truncations(good), check)


def test_of_a_jpeg_with_pictures_behind_it_the_first_one_is_read():
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright
    data = phone_picture(Image.new("RGB", (32, 16), "red"), exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert image.n_frames == 2, "Pillow finds the other one"
    picture = open_rgb(io.BytesIO(data))
    assert picture.size == (16, 32)
    red, *others = picture.getpixel((8, 16))
    assert red > 200
    assert max(others) < 60


def test_a_damaged_index_of_further_pictures_does_no_harm():
    good = phone_picture(Image.new("RGB", (12, 9), "red"))

    def check(data: bytes) -> None:
        image = read_or_fault(lambda: open_rgb(io.BytesIO(data), "i.jpg"), "i.jpg: ")
        assert image is None or image.mode == "RGB"

    every(bytes_changed(good, 600), check)


def test_what_would_do_harm_is_refused():
    def check(data: bytes) -> None:
        messages = set()
        for _ in range(2):
            with pytest.raises(Exception, match=r"^i.png: ") as raised:
                open_rgb(io.BytesIO(data), "i.png")
            assert type(raised.value).__name__ == "ContractError"
            messages.add(str(raised.value))
        assert len(messages) == 1, "it is kept in a record, which must be the same each time"

    every(harmful().items(), check)


def test_memory_stays_bounded(tmp_path):
    """All of them together in 1 GiB of address space, in which a big one would not fit."""
    for number, data in enumerate(harmful().values()):
        (tmp_path / f"{number}.png").write_bytes(data)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from expo_cli.contracts.images import open_rgb\n"
        "from expo_cli.errors import ContractError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try: open_rgb(path)\n"
        "    except ContractError: pass\n"
        "    else: sys.exit(str(path))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_damaged_tiff_says_nothing_beside_the_line(tmp_path):
    """Pillow warns, and logs, on standard error."""
    good, code = (
        encoded("TIFF"),
        (
            "import sys\n"
            "from pathlib import Path\n"
            "from expo_cli.contracts.images import open_rgb\n"
            "from expo_cli.errors import ContractError\n"
            "for path in Path(sys.argv[1]).iterdir():\n"
            "    try: open_rgb(path)\n"
            "    except ContractError: pass\n"
        ),
    )
    for number, (_, data) in enumerate(bytes_changed(good, 300)):
        (tmp_path / str(number)).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_content_tells_the_format_not_the_name(tmp_path):
    expected = open_rgb(io.BytesIO(encoded("PNG"))).tobytes()
    for name in ("i.jpg", "i.exe", "i", "i.png.gz"):
        (tmp_path / name).write_bytes(encoded("PNG"))
        assert open_rgb(tmp_path / name).tobytes() == expected


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_camera_on_its_side_is_seen_upright(image_format):
    """Orientation 6: the first row of the file is the right side of the picture."""
    picture = Image.new("RGB", (32, 16), "white")
    picture.paste("red", (0, 0, 32, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, image_format, exif=exif)
    upright = open_rgb(buffer)
    assert upright.size == (16, 32)
    left, right = upright.getpixel((3, 16)), upright.getpixel((12, 16))
    assert min(left) > 200
    assert right[0] > 200
    assert max(right[1:]) < 60


def test_transparent_colours_of_a_palette_and_of_grey(tmp_path):
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    for image, transparency in ((palette, bytes([255, 0])), (Image.new("L", (2, 2), 7), 7)):
        image.save(tmp_path / "i.png", transparency=transparency)
        assert open_rgb(tmp_path / "i.png").getpixel((0, 0)) == (255, 255, 255)


def test_a_report_opens_images_as_all_others(tmp_path):
    """By Pillow's own choice an EPS would be given to Ghostscript, a program."""

    def check(data: bytes) -> None:
        path: Path = tmp_path / "image.png"
        path.write_bytes(data)
        assert read_or_fault(lambda: thumbnail(path), str(path)) is None

    every(harmful().items(), check)
