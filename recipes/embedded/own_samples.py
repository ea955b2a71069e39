"""Draw pairs of the base model's own samples, one of them better, for the rewards to learn from.

For reward A the worse one was asked to be flawed; for reward B it was drawn with too few steps or
without guidance.
"""

import argparse
import random
import tempfile
from pathlib import Path

import torch
from clip import named_flaws
from commands import draw, read_images
from degrade import FLAWS
from export import export_pipeline
from torch import Tensor
from world import load_drawings

from expo_cli.contracts.files import atomic

POLICY = "policy"
GUIDED = ("--guidance-scale", 4)


def draw_images(
    folder: Path, captions: list[str], *options: object, negatives: list[str] | None = None
) -> Tensor:
    """Draw with the policy beside `folder`: uint8 images [count, 3, 64, 64]."""
    policy = folder.with_name(POLICY)
    return read_images(folder, draw(folder, captions, *options, policy=policy, negatives=negatives))


def flawed(folder: Path, captions: list[str], rng: random.Random) -> dict[str, Tensor]:
    """Good ones avoid the flaws, bad ones name them."""
    flaws = [rng.sample(list(FLAWS), rng.choice([1, 1, 2])) for _ in captions]
    asked = [named_flaws(*both, rng) for both in zip(captions, flaws, strict=True)]
    avoided = [", ".join(rng.sample(list(FLAWS), 2)) for _ in captions]
    better, worse = (*GUIDED, "--seed", 11), (*GUIDED, "--seed", 12)
    return {
        "better": draw_images(folder / "better", captions, *better, negatives=avoided),
        "worse": draw_images(folder / "worse", asked, *worse),
    }


def hurried(folder: Path, captions: list[str], rng: random.Random) -> dict[str, Tensor]:
    """Good ones take their time, bad ones have hardly any steps or no guidance."""
    half = len(captions) // 2
    better = ("--num-inference-steps", 16, "--guidance-scale", 2.5, "--seed", 13)
    few_steps = ("--scheduler", "ddim", "--num-inference-steps", 4, *GUIDED, "--seed", 14)
    no_guidance = ("--guidance-scale", 1, "--seed", 15)
    worse = [
        draw_images(folder / "few-steps", captions[:half], *few_steps),
        draw_images(folder / "no-guidance", captions[half:], *no_guidance),
    ]
    return {
        "better": draw_images(folder / "better", captions, *better),
        "worse": torch.cat(worse),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("reward", choices=["a", "b"])
    parser.add_argument("--count", type=int, default=300, help="pairs")
    arguments = parser.parse_args()
    rng = random.Random(arguments.reward)
    _, drawings = load_drawings(arguments.work)
    chosen = rng.sample(range(len(drawings)), arguments.count)
    captions = [drawings[index].caption() for index in chosen]
    make = {"a": flawed, "b": hurried}[arguments.reward]
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        export_pipeline(arguments.work, Path(folder) / POLICY)
        images = make(Path(folder), captions, rng)
    with atomic(arguments.work / f"own_samples_{arguments.reward}.pt") as file:
        torch.save({"drawing": chosen, "captions": captions, **images}, file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
