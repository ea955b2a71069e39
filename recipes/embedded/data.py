"""Render the drawings of the embedded world at 64x64 on white, and list their captions as prompts."""

import argparse
import io
import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image
from world import Drawing, bare, read_world, stable_order

SVG_PACKAGES = {"noto": "noto", "flat": "fluent-emoji-flat", "twemoji": "twemoji"}
IMAGE_SIZE = 64


class Artwork:
    """Draws any emoji of the four packages at 64x64 on white."""

    def __init__(self, node_modules: Path) -> None:
        self.folder_3d = node_modules / "@lobehub/fluent-emoji-3d/assets"
        self.files_3d = {bare(path.stem): path for path in self.folder_3d.glob("*.webp")}
        self.icons, self.names = {}, {}
        for style, package in SVG_PACKAGES.items():
            folder = node_modules / "@iconify-json" / package
            self.icons[style] = json.loads((folder / "icons.json").read_text())
            names = json.loads((folder / "chars.json").read_text())
            self.names[style] = {bare(code): name for code, name in names.items()}

    def draw(self, style: str, code: str) -> np.ndarray:
        picture = self._open_3d(code) if style == "3d" else self._render_svg(style, code)
        picture = picture.convert("RGBA").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.LANCZOS)
        page = Image.new("RGBA", picture.size, "white")
        return np.asarray(Image.alpha_composite(page, picture).convert("RGB"))

    def _open_3d(self, code: str) -> Image.Image:
        return Image.open(self.files_3d[code])

    def _render_svg(self, style: str, code: str) -> Image.Image:
        icon_set = self.icons[style]
        name = self.names[style][code]
        icon = icon_set["icons"].get(name) or icon_set["icons"][icon_set["aliases"][name]["parent"]]
        width = icon.get("width", icon_set["width"])
        height = icon.get("height", icon_set["height"])
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=IMAGE_SIZE, height=IMAGE_SIZE)
        return Image.open(io.BytesIO(bytes(png)))


def write_prompts(path: Path, drawings: list[Drawing]) -> None:
    lines = [json.dumps({"prompt": d.caption(), "category": d.style}) for d in drawings]
    path.write_text("\n".join(stable_order(lines, "order")) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("node_modules", type=Path, help="where npm installed the artwork")
    parser.add_argument("work", type=Path, help="folder for everything made on the way")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)

    drawings = read_world(arguments.node_modules)
    artwork = Artwork(arguments.node_modules)
    images = np.stack([artwork.draw(drawing.style, drawing.hexcode) for drawing in drawings])
    np.save(arguments.work / "images.npy", images)
    lines = [json.dumps(asdict(drawing)) for drawing in drawings]
    (arguments.work / "drawings.jsonl").write_text("\n".join(lines) + "\n")
    prompts = arguments.work / "prompts"
    prompts.mkdir(exist_ok=True)
    write_prompts(prompts / "train.jsonl", [d for d in drawings if not d.heldout])
    write_prompts(prompts / "heldout.jsonl", [d for d in drawings if d.heldout])
    hidden = sum(drawing.heldout for drawing in drawings)
    logging.info("%d images, %d of them held out", len(drawings), hidden)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
