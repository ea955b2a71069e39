"""Which drawings the embedded world has, what their captions say, and which ones no model may ever see.

A held-out prompt is a known concept in a style it was never trained in, or a known profession in a
combination of gender, skin tone and style that was never seen together.
"""

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

STYLES = ("noto", "flat", "3d", "twemoji")
GENDERS = ("woman", "man")
TONES = {1: "light", 3: "medium", 5: "dark"}
HELDOUT_CONCEPTS = 168
HELDOUT_PEOPLE = 48
HERE = Path(__file__).parent
EMBEDDED = HERE.parents[1] / "expo_cli" / "embedded"


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


def load_drawings(work: Path, heldout: bool = False) -> tuple[Tensor, list[Drawing]]:
    """Images, uint8 [count, 3, 64, 64], and their records: those to train on, or those held out."""
    lines = (work / "drawings.jsonl").read_text().splitlines()
    drawings = [Drawing(**json.loads(line)) for line in lines]
    images = as_tensor(np.load(work / "images.npy"))
    kept = [index for index, drawing in enumerate(drawings) if drawing.heldout == heldout]
    return images[kept], [drawings[index] for index in kept]


def as_tensor(images: np.ndarray) -> Tensor:
    """uint8 images [count, height, width, 3] to uint8 [count, 3, height, width]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def read_prompts(split: str, count: int) -> list[str]:
    """The first shipped prompts of `train` or `heldout`."""
    lines = (EMBEDDED / "prompts" / f"{split}.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines[:count]]


def word_list(path: Path) -> list[str]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [word.strip() for line in lines for word in line.split(",") if word.strip()]


def stable_order(items: list, salt: str) -> list:
    """Items in the order of their hashes: random, yet the same on every machine."""
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
