"""What all checks share: the device, the sizes, and models and pairs made on the spot."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path

import torch

from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import prompt_id
from expo_cli.contracts.records import Prompt
from expo_cli.stages.common.device import default_device
from tests.benchmarks.train import Work, make_work, open_work
from tests.checkpoints.sd import stable_diffusion
from tests.tiny_rewards import clip_model


@dataclass(frozen=True)
class Sizes:
    """`full`: SD 1.5's width and CLIP's ViT-L/14."""

    full: bool
    pixels: int
    sampling_steps: int
    images_per_prompt: int
    pairs: int
    batch: int
    rounds: int
    images: int


SIZES = {
    "toy": Sizes(
        full=False,
        pixels=64,
        sampling_steps=4,
        images_per_prompt=2,
        pairs=4,
        batch=2,
        rounds=2,
        images=8,
    ),
    "sd15": Sizes(
        full=True,
        pixels=512,
        sampling_steps=10,
        images_per_prompt=4,
        pairs=8,
        batch=4,
        rounds=3,
        images=64,
    ),
}
TEXTS = ("a red cat on a sofa", "two blue dogs in the rain")


@dataclass(frozen=True)
class Setting:
    """Everything is made in `folder`; a model at its first use."""

    folder: Path
    size: str
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.size]

    @cached_property
    def device(self) -> torch.device:
        return default_device()

    @cached_property
    def model(self) -> Path:
        return stable_diffusion(self.folder / "model", full=self.sizes.full)

    @cached_property
    def reward(self) -> Path:
        tokenizer = self.model / "tokenizer"
        return clip_model(self.folder / "clip", tokenizer, full=self.sizes.full)

    @cached_property
    def prompts(self) -> Path:
        path = self.folder / "prompts.jsonl"
        jsonl.write(path, [Prompt(prompt_id=prompt_id(text), prompt=text) for text in TEXTS])
        return path

    @cached_property
    def pairs(self) -> Path:
        return self.work("fp32", use_lora=False).pairs

    def work(self, precision: str, use_lora: bool) -> Work:
        """Pairs, and their images, for `expo train` and for the peers' loop."""
        options = argparse.Namespace(
            sd15=self.model,
            image_size=self.sizes.pixels,
            use_lora=use_lora,
            precision=precision,
            batch=self.sizes.batch,
            pairs=self.sizes.pairs,
            steps=2,
            rounds=self.sizes.rounds,
        )
        folder = self.new("pairs")
        folder.mkdir()
        make_work(folder, options)
        return open_work(folder, options)

    def new(self, name: str) -> Path:
        """A path that nobody has taken."""
        return self.folder / f"{name}-{next(self.numbers)}"


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """||one - other|| / ||other||"""
    one, other = one.double().cpu(), other.double().cpu()
    return ((one - other).norm() / other.norm()).item()
