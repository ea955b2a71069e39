"""Measure what is shipped; the figures of the model cards come from here."""

import argparse
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from data import PROMPTS, load_drawings
from degrade import FLAWS
from diffusers import StableDiffusionPipeline
from export import EMBEDDED
from judges import RewardA, RewardB, scores
from PIL import Image
from reward_b import to_picture
from sampling import SAMPLERS, Painter
from scipy.stats import pearsonr, spearmanr
from spoil import SPOILERS
from torch import Generator, Tensor
from training import as_tensor
from vae import peak_signal_to_noise

log = logging.getLogger("measure")
Judges = dict[str, RewardA | RewardB]
SAMPLER_STEPS, SAMPLER_GUIDANCE = (8, 10, 12, 16, 20), (1.5, 2.0, 3.0, 4.0)
# From much variation in quality, which preferences feed on, to little.
GUIDANCES = (1.5, 2.0, 3.0)


def read_prompts(split: str, count: int) -> list[str]:
    lines = (PROMPTS / f"{split}.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines][:count]


def first_of_twenty(judge: RewardA | RewardB, images: Tensor, captions: list[str]) -> float:
    """How often the right caption scores highest among it and 19 others of the list."""
    similarity = judge.images(images) @ judge.captions(captions).T
    rng, hits = random.Random(0), 0
    for row in range(len(captions)):
        others = rng.sample([index for index in range(len(captions)) if index != row], 19)
        hits += bool(similarity[row, row] > similarity[row, others].max())
    return hits / len(captions)


def measure_fidelity(painter: Painter, judges: Judges) -> dict:
    figures = {}
    for split in ("train", "heldout"):
        captions = read_prompts(split, 216)
        for guidance in GUIDANCES:
            images = painter.draw(captions, seed=21, guidance_scale=guidance)
            figures[f"{split} guidance={guidance}"] = {
                name: first_of_twenty(judge, images, captions) for name, judge in judges.items()
            }
    return figures


def measure_agreement(
    painter: Painter, judges: Judges, guidance: float, count: int = 64, group: int = 8
) -> dict:
    """Do both rewards order samples of one prompt alike?"""
    captions = [caption for caption in read_prompts("train", count) for _ in range(group)]
    images = painter.draw(captions, seed=22, guidance_scale=guidance)
    first, second = (
        scores(j, images, captions).view(count, group).numpy() for j in judges.values()
    )
    rows = list(zip(first, second, strict=True))
    return {
        "spearman": float(np.mean([spearmanr(a, b).statistic for a, b in rows])),
        "pearson": float(np.mean([pearsonr(a, b).statistic for a, b in rows])),
        "spread_a": float(first.std(1).mean()),
        "spread_b": float(second.std(1).mean()),
    }


def measure_negatives(painter: Painter, judges: Judges) -> dict:
    """All negative prompts where quality varies most, the first one with more guidance too."""
    negatives = (PROMPTS / "negative.txt").read_text().splitlines()
    pairs = [(negative, GUIDANCES[0]) for negative in negatives]
    pairs += [(negatives[0], guidance) for guidance in GUIDANCES[1:]]
    return {
        f"{negative} guidance={guidance}": negative_gains(painter, judges, negative, guidance)
        for negative, guidance in pairs
    }


def negative_gains(
    painter: Painter, judges: Judges, negative: str, guidance: float, count: int = 96
) -> dict:
    """What a negative prompt changes, with the same noise: mean difference and its standard error."""
    captions = read_prompts("train", count)
    plain = painter.draw(captions, seed=23, guidance_scale=guidance)
    avoiding = painter.draw(
        captions, negatives=[negative] * count, seed=23, guidance_scale=guidance
    )
    gains = {
        name: with_error(scores(judge, avoiding, captions) - scores(judge, plain, captions))
        for name, judge in judges.items()
    }
    log.info("%s guidance=%s: %s", negative, guidance, gains)
    return gains


def with_error(values: Tensor) -> list[float]:
    return [values.mean().item(), values.std().item() / len(values) ** 0.5]


def measure_flaws(work: Path, judges: Judges) -> dict:
    """How often a held-out image scores above its flawed copy, for either script's flaws."""
    images, drawings = load_drawings(work, heldout=True)
    clean, captions = as_tensor(images), [drawing.caption() for drawing in drawings]
    copies = {name: flawed_copies(clean, flaw) for name, flaw in FLAWS.items()}
    copies |= {name: spoiled_copies(clean, spoiler) for name, spoiler in SPOILERS.items()}
    figures = {name: {} for name in judges}
    for name, judge in judges.items():
        above = scores(judge, clean, captions)
        for flaw, bad in copies.items():
            figures[name][flaw] = (above > scores(judge, bad, captions)).float().mean().item()
    return figures


def flawed_copies(images: Tensor, flaw: Callable[[Tensor, Generator], Tensor]) -> Tensor:
    generator = Generator().manual_seed(24)
    copies = [flaw(image.float() / 255, generator).clamp(0, 1) for image in images]
    return (torch.stack(copies) * 255).round().to(torch.uint8)


def spoiled_copies(
    images: Tensor, spoiler: Callable[[Image.Image, random.Random], Image.Image]
) -> Tensor:
    rng = random.Random(25)
    pictures = [spoiler(to_picture(image), rng) for image in images]
    return as_tensor(np.stack([np.asarray(picture) for picture in pictures]))


def measure_samplers(painter: Painter, judges: Judges, count: int = 48) -> dict:
    """Mean scores of training prompts at equal numbers of steps; only reward A may choose."""
    captions = read_prompts("train", count)
    figures = {}
    for sampler in SAMPLERS:
        for steps in SAMPLER_STEPS:
            for guidance in SAMPLER_GUIDANCE:
                images = painter.draw(
                    captions,
                    seed=26,
                    sampler=sampler,
                    num_inference_steps=steps,
                    guidance_scale=guidance,
                )
                key = f"{sampler} steps={steps} guidance={guidance:g}"
                figures[key] = with_error(scores(judges["a"], images, captions))
                log.info("%s %s", key, figures[key])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("what", nargs="*", help="vae fidelity agreement flaws negatives samplers")
    arguments = parser.parse_args()
    pipeline = StableDiffusionPipeline.from_pretrained(EMBEDDED / "emoji-sd")
    judges = {"a": RewardA(EMBEDDED / "emoji-pickscore"), "b": RewardB(EMBEDDED / "emoji-hps")}
    painter = Painter(pipeline)
    hidden = as_tensor(load_drawings(arguments.work, heldout=True)[0])
    measures = {
        "vae": lambda: peak_signal_to_noise(pipeline.vae, hidden),
        "fidelity": lambda: measure_fidelity(painter, judges),
        "agreement": lambda: {g: measure_agreement(painter, judges, g) for g in GUIDANCES},
        "flaws": lambda: measure_flaws(arguments.work, judges),
        "negatives": lambda: measure_negatives(painter, judges),
        "samplers": lambda: measure_samplers(painter, judges),
    }
    path = arguments.work / "figures.json"
    for name in arguments.what or measures:
        result = measures[name]()
        log.info("%s: %s", name, result)
        figures = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**figures, name: result}, indent=2) + "\n")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    main()
