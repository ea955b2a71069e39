"""The flaws that the held-out reward learns to see: others than those of the base model's world.

Made with Pillow and numpy, so that the two rewards share no code about quality.
"""

import io
import random

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

WHITE = (255, 255, 255)


def smear(image: Image.Image, rng: random.Random) -> Image.Image:
    """A box blur, or motion along a row or a column."""
    radius = rng.uniform(1.2, 3.0)
    return image.filter(ImageFilter.BoxBlur(rng.choice([radius, (2 * radius, 0), (0, 2 * radius)])))


def speckle(image: Image.Image, rng: random.Random) -> Image.Image:
    """Grey or coloured dots over a part of the pixels."""
    noise = np.random.default_rng(rng.getrandbits(32))
    pixels = np.array(image)
    hit = noise.random(pixels.shape[:2]) < rng.uniform(0.08, 0.35)
    dots = noise.integers(0, 256, (*pixels.shape[:2], rng.choice([1, 3])), dtype=np.uint8)
    mixed = 0.4 * pixels[hit] + 0.6 * np.broadcast_to(dots, pixels.shape)[hit]
    pixels[hit] = mixed.astype(np.uint8)
    return Image.fromarray(pixels)


def swap_channels(image: Image.Image, rng: random.Random) -> Image.Image:
    orders = [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    channels = image.split()
    return Image.merge("RGB", [channels[index] for index in rng.choice(orders)])


def push_colors(image: Image.Image, rng: random.Random) -> Image.Image:
    vivid = ImageEnhance.Color(image).enhance(rng.uniform(2.0, 5.0))
    return ImageEnhance.Contrast(vivid).enhance(rng.uniform(1.0, 2.0))


def wash_out(image: Image.Image, rng: random.Random) -> Image.Image:
    gray = ImageEnhance.Color(image).enhance(rng.uniform(0.0, 0.5))
    flat = ImageEnhance.Contrast(gray).enhance(rng.uniform(0.25, 0.7))
    return ImageEnhance.Brightness(flat).enhance(rng.uniform(0.6, 1.1))


def shrink(image: Image.Image, rng: random.Random) -> Image.Image:
    size = rng.randint(9, 20)
    filters = [Image.Resampling.NEAREST, Image.Resampling.BILINEAR]
    small = image.resize((size, size), Image.Resampling.BILINEAR)
    return small.resize(image.size, rng.choice(filters))


def compress(image: Image.Image, rng: random.Random) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=rng.randint(2, 9))
    return Image.open(file).convert("RGB")


def ripple(image: Image.Image, rng: random.Random) -> Image.Image:
    """Shift rows, then columns, along a sine."""
    pixels = np.array(image)
    for axis in (0, 1):
        height = rng.uniform(2.0, 5.0)
        phase = 2 * np.pi * (np.arange(64) / rng.uniform(16, 40) + rng.random())
        shifts = (height * np.sin(phase)).round().astype(int)
        lines = np.moveaxis(pixels, axis, 0)
        moved = np.stack([np.roll(line, s, 0) for line, s in zip(lines, shifts, strict=True)])
        pixels = np.moveaxis(moved, 0, axis)
    return Image.fromarray(np.ascontiguousarray(pixels))


def shuffle_tiles(image: Image.Image, rng: random.Random) -> Image.Image:
    """Swap some tiles of a 4x4 grid: the right parts in the wrong places."""
    corners = [(x, y) for x in range(0, 64, 16) for y in range(0, 64, 16)]
    chosen = rng.sample(corners, rng.randint(3, 8))
    result = image.copy()
    for (x, y), target in zip(chosen, chosen[1:] + chosen[:1], strict=True):
        result.paste(image.crop((x, y, x + 16, y + 16)), target)
    return result


def ghost(image: Image.Image, rng: random.Random) -> Image.Image:
    """The picture twice, displaced."""
    shift = ImageChops.offset(image, rng.randint(4, 12), rng.randint(-10, 10))
    return Image.blend(image, shift, rng.uniform(0.3, 0.6))


def paint_over(image: Image.Image, rng: random.Random) -> Image.Image:
    """Cover a part of the picture with its mean colour or with white."""
    result = image.copy()
    color = rng.choice([WHITE, tuple(np.array(image).mean((0, 1)).astype(int).tolist())])
    width, height = rng.randint(20, 44), rng.randint(20, 44)
    left, top = rng.randint(4, 60 - width), rng.randint(4, 60 - height)
    result.paste(color, (left, top, left + width, top + height))
    return result


def posterize(image: Image.Image, rng: random.Random) -> Image.Image:
    return ImageOps.posterize(image, rng.choice([1, 2])) if rng.random() < 0.5 else tint(image, rng)


def tint(image: Image.Image, rng: random.Random) -> Image.Image:
    color = tuple(rng.randint(0, 255) for _ in range(3))
    return Image.blend(image, Image.new("RGB", image.size, color), rng.uniform(0.2, 0.45))


SPOILERS = {
    "smear": smear,
    "speckle": speckle,
    "swap channels": swap_channels,
    "push colors": push_colors,
    "wash out": wash_out,
    "shrink": shrink,
    "compress": compress,
    "ripple": ripple,
    "shuffle tiles": shuffle_tiles,
    "ghost": ghost,
    "paint over": paint_over,
    "posterize or tint": posterize,
}


def spoil(image: Image.Image, rng: random.Random) -> Image.Image:
    """One spoiler, or two one after the other."""
    for name in rng.sample(list(SPOILERS), rng.choice([1, 1, 2])):
        image = SPOILERS[name](image, rng)
    return image


def jitter(image: Image.Image, rng: random.Random) -> Image.Image:
    """Move, turn and scale a little: what does not make a picture worse."""
    scale, angle = rng.uniform(0.9, 1.05), rng.uniform(-4, 4)
    size = round(image.width * scale)
    turned = image.resize((size, size), Image.Resampling.BICUBIC).rotate(
        angle, Image.Resampling.BICUBIC, fillcolor=WHITE
    )
    page = Image.new("RGB", image.size, WHITE)
    offset = (image.width - size) // 2
    page.paste(turned, (offset + rng.randint(-3, 3), offset + rng.randint(-3, 3)))
    return page
