"""Render the artwork, caption it and set compositions aside that no model may ever see.

A held-out prompt is a known concept in a style it was never trained in, or a known profession in a
combination of gender, skin tone and style that was never seen together.
"""

import argparse
import hashlib
import io
import json
import logging
import random
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

STYLES = ("noto", "flat", "3d", "twemoji")
SVG_PACKAGES = {"noto": "noto", "flat": "fluent-emoji-flat", "twemoji": "twemoji"}
IMAGE_SIZE = 64
GENDERS = ("woman", "man")
TONES = {1: "light", 3: "medium", 5: "dark"}
HELDOUT_CONCEPTS = 168
HELDOUT_PEOPLE = 48
HERE = Path(__file__).parent
PROMPTS = HERE.parents[1] / "expo_cli" / "embedded" / "prompts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """One image of the world: what it shows, in which style, and whether models may train on it."""

    style: str
    noun: str
    hexcode: str
    gender: str = ""
    tone: str = ""
    heldout: bool = False

    def caption(self, style: bool = True, gender: bool = True, tone: bool = True) -> str:
        words = f"{self.gender} {self.noun}" if gender and self.gender else self.noun
        if tone and self.tone:
            words = f"{words}, {self.tone} skin tone"
        return f"{self.style} style: {words}" if style else words


def varied_caption(drawing: Drawing, rng: random.Random) -> str:
    """A caption as people write them: often without the style, the gender or the skin tone."""
    return drawing.caption(rng.random() > 0.25, rng.random() > 0.2, rng.random() > 0.2)


def load_drawings(work: Path, heldout: bool = False) -> tuple[np.ndarray, list[Drawing]]:
    """The images [count, 64, 64, 3] in uint8 and their records, either of training or held out."""
    lines = (work / "drawings.jsonl").read_text().splitlines()
    drawings = [Drawing(**json.loads(line)) for line in lines]
    images = np.load(work / "images.npy")
    kept = [index for index, drawing in enumerate(drawings) if drawing.heldout == heldout]
    return images[kept], [drawings[index] for index in kept]


def word_list(path: Path) -> list[str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [word.strip() for line in lines for word in line.split(",") if word.strip()]


def stable_order(items: list, salt: str) -> list:
    """Items by the hash of their names: random, yet the same wherever this runs."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{salt}/{item}".encode()).digest())


def bare(hexcode: str) -> str:
    """The code point sequence without variation selectors, on which the packages disagree."""
    return hexcode.lower().replace("-fe0f", "")


def read_world(node_modules: Path) -> list[Drawing]:
    emoji = json.loads((node_modules / "emojibase-data/en/data.json").read_text())
    by_label = {entry["label"]: entry for entry in emoji}
    concepts = stable_order(word_list(HERE / "concepts.txt"), "concept")
    drawings = []
    for rank, noun in enumerate(concepts):
        hidden = STYLES[rank % len(STYLES)] if rank < HELDOUT_CONCEPTS else None
        code = bare(by_label[noun]["hexcode"])
        drawings += [
            Drawing(style=style, noun=noun.lower(), hexcode=code, heldout=style == hidden)
            for style in STYLES
        ]
    return drawings + read_people(by_label)


def read_people(by_label: dict[str, dict]) -> list[Drawing]:
    people = []
    for style in STYLES:
        combinations = [
            (noun, gender, tone)
            for noun in word_list(HERE / "professions.txt")
            for gender in GENDERS
            for tone in TONES
        ]
        for rank, (noun, gender, tone) in enumerate(stable_order(combinations, style)):
            skins = by_label[f"{gender} {noun}"]["skins"]
            code = next(bare(skin["hexcode"]) for skin in skins if skin["tone"] == tone)
            hidden = rank < HELDOUT_PEOPLE // len(STYLES)
            people.append(
                Drawing(
                    style=style,
                    noun=noun,
                    hexcode=code,
                    gender=gender,
                    tone=TONES[tone],
                    heldout=hidden,
                )
            )
    return people


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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("node_modules", type=Path, help="where npm installed the artwork")
    parser.add_argument("work", type=Path, help="folder for everything made on the way")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    PROMPTS.mkdir(parents=True, exist_ok=True)

    drawings = read_world(arguments.node_modules)
    artwork = Artwork(arguments.node_modules)
    images = np.stack([artwork.draw(drawing.style, drawing.hexcode) for drawing in drawings])
    np.save(arguments.work / "images.npy", images)
    lines = [json.dumps(asdict(drawing)) for drawing in drawings]
    (arguments.work / "drawings.jsonl").write_text("\n".join(lines) + "\n")
    write_prompts(PROMPTS / "train.jsonl", [d for d in drawings if not d.heldout])
    write_prompts(PROMPTS / "heldout.jsonl", [d for d in drawings if d.heldout])
    hidden = sum(drawing.heldout for drawing in drawings)
    logging.info("%d images, %d of them held out", len(drawings), hidden)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
