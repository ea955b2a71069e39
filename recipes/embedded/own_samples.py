"""Pairs of the base model's own samples of which one must be better, for the rewards to learn from.

For reward A the worse one was asked to be flawed; for reward B it was drawn in a hurry.
"""

import argparse
import os
import random
from pathlib import Path

import torch
from clip import named_flaws
from data import load_drawings
from degrade import FLAWS
from export import build_pipeline
from sampling import Painter

COUNT, GUIDANCE = 300, 4.0


def flawed(painter: Painter, captions: list[str], rng: random.Random) -> dict[str, torch.Tensor]:
    """Good ones avoid the flaws, bad ones name them."""
    flaws = [rng.sample(list(FLAWS), rng.choice([1, 1, 2])) for _ in captions]
    asked = [named_flaws(*both, rng) for both in zip(captions, flaws, strict=True)]
    avoided = [", ".join(rng.sample(list(FLAWS), 2)) for _ in captions]
    return {
        "better": painter.draw(captions, negatives=avoided, seed=11, guidance_scale=GUIDANCE),
        "worse": painter.draw(asked, seed=12, guidance_scale=GUIDANCE),
    }


def hurried(painter: Painter, captions: list[str], rng: random.Random) -> dict[str, torch.Tensor]:
    """Good ones take their time, bad ones hardly any steps or hardly any guidance."""
    half = len(captions) // 2
    few_steps = painter.draw(
        captions[:half], seed=14, sampler="ddim", num_inference_steps=4, guidance_scale=GUIDANCE
    )
    no_guidance = painter.draw(captions[half:], seed=15, guidance_scale=1.0)
    return {
        "better": painter.draw(captions, seed=13, num_inference_steps=16, guidance_scale=2.5),
        "worse": torch.cat([few_steps, no_guidance]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("reward", choices=["a", "b"])
    arguments = parser.parse_args()
    rng = random.Random(arguments.reward)
    _, drawings = load_drawings(arguments.work)
    chosen = rng.sample(range(len(drawings)), COUNT)
    captions = [drawings[index].caption() for index in chosen]
    make = {"a": flawed, "b": hurried}[arguments.reward]
    pool = {
        "drawing": chosen,
        "captions": captions,
        **make(Painter(build_pipeline(arguments.work)), captions, rng),
    }
    path = arguments.work / f"own_samples_{arguments.reward}.pt"
    partial = path.with_name(path.name + ".partial")
    torch.save(pool, partial)
    os.replace(partial, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
