"""Preference data in the layouts of others, small enough to check by hand."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image


def picture(seed: int, width: int = 96, height: int = 72, mode: str = "RGB") -> Image.Image:
    """A smooth image of random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.BICUBIC).convert(mode)


def png(image: Image.Image, image_format: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **settings)
    return buffer.getvalue()


def write_parquet(path: Path, rows: list[dict[str, Any]], **settings: Any) -> Path:
    columns = {name: [row.get(name) for row in rows] for row in rows for name in row}
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.table(columns), path, **settings)
    return path


def pick_a_pic_rows() -> list[dict[str, Any]]:
    """Five rows: red over blue, green over red (the same red), a tie, no label, green over blue."""
    images = {name: png(picture(seed)) for seed, name in enumerate(("red", "blue", "green"))}

    def row(caption: str, left: str, right: str, label: float | None) -> dict[str, Any]:
        return {
            "caption": caption,
            "jpg_0": images[left],
            "jpg_1": images[right],
            "image_0_uid": f"uid-{left}",
            "image_1_uid": f"uid-{right}",
            "label_0": label,
            "label_1": None if label is None else 1 - label,
            "has_label": label is not None,
        }

    return [
        row("a cat", "red", "blue", 1.0),
        row("a cat", "red", "green", 0.0),
        row("a dog", "red", "blue", 0.5),
        row("a dog", "red", "blue", None),
        row("a dog", "green", "blue", 1.0),
    ]


def write_pick_a_pic(path: Path) -> Path:
    return write_parquet(path, pick_a_pic_rows(), row_group_size=2)


def write_image_folder(folder: Path, num_pairs: int = 2) -> Path:
    """Pairs of images of `folder`, each with a prompt of its own."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(num_pairs):
        names = {role: f"{number}-{role}.png" for role in ("winner", "loser")}
        for seed, name in enumerate(names.values()):
            picture(2 * number + seed).save(folder / name)
        record = {f"{role}_file_name": name for role, name in names.items()}
        lines.append(json.dumps(record | {"prompt": f"prompt {number}"}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder
