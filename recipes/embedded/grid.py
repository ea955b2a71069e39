"""Draw captions with a pipeline into one PNG, to look at: a row a caption."""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from sampling import Painter
from torch import Tensor

CAPTIONS = """noto style: red apple|flat style: dog|3d style: grinning face|twemoji style: sailboat
3d style: woman firefighter, dark skin tone|noto style: man astronaut, light skin tone
flat style: woman scientist, medium skin tone|twemoji style: man cook, dark skin tone
3d style: blue heart|noto style: tulip|twemoji style: penguin|flat style: guitar|red apple|firefighter
3d style: hamburger|noto style: owl|twemoji style: unicorn|flat style: rocket|noto style: bicycle
3d style: octopus|flat style: house|twemoji style: pizza|noto style: cat face|3d style: cactus"""


def save_grid(images: Tensor, columns: int, path: Path, zoom: int = 1) -> None:
    """uint8 images [count, 3, height, width], row after row."""
    rows = [torch.cat(list(row), dim=-1) for row in images.split(columns)]
    picture = Image.fromarray(torch.cat(rows, dim=-2).permute(1, 2, 0).numpy())
    size = picture.width * zoom, picture.height * zoom
    picture.resize(size, Image.Resampling.BICUBIC).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--negative", default="")
    parser.add_argument("--guidance", type=float, default=3.0)
    arguments = parser.parse_args()
    painter = Painter(StableDiffusionPipeline.from_pretrained(arguments.pipeline))
    captions = CAPTIONS.replace("\n", "|").split("|")
    repeated = [caption for caption in captions for _ in range(4)]
    images = painter.draw(
        repeated, negatives=[arguments.negative] * len(repeated), guidance_scale=arguments.guidance
    )
    save_grid(images, 16, arguments.picture)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
