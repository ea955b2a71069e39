"""Draw captions with a policy into one PNG, to look at: four images of each, four captions per row."""

import argparse
import tempfile
from pathlib import Path

import torch
from commands import draw, read_images
from PIL import Image
from torch import Tensor

CAPTIONS = """noto style: red apple|flat style: dog|3d style: grinning face|twemoji style: sailboat
3d style: woman firefighter, dark skin tone|noto style: man astronaut, light skin tone
flat style: woman scientist, medium skin tone|twemoji style: man cook, dark skin tone
3d style: blue heart|noto style: tulip|twemoji style: penguin|flat style: guitar|red apple|firefighter
3d style: hamburger|noto style: owl|twemoji style: unicorn|flat style: rocket|noto style: bicycle
3d style: octopus|flat style: house|twemoji style: pizza|noto style: cat face|3d style: cactus"""
IMAGES_PER_CAPTION, COLUMNS = 4, 16


def save_grid(images: Tensor, path: Path) -> None:
    """uint8 images [count, 3, height, width], row after row."""
    rows = [torch.cat(list(row), dim=-1) for row in images.split(COLUMNS)]
    Image.fromarray(torch.cat(rows, dim=-2).permute(1, 2, 0).numpy()).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", help="pipeline folder, hub id or embedded:NAME")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--negative", default="")
    parser.add_argument("--guidance", type=float, default=3.0)
    arguments = parser.parse_args()
    captions = CAPTIONS.replace("\n", "|").split("|")
    options = (
        "--num-images-per-prompt",
        IMAGES_PER_CAPTION,
        "--guidance-scale",
        arguments.guidance,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder, negatives = Path(temporary) / "rollout", [arguments.negative] * len(captions)
        samples = draw(folder, captions, *options, policy=arguments.policy, negatives=negatives)
        save_grid(read_images(folder, samples), arguments.picture)


if __name__ == "__main__":
    main()
