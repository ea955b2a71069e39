"""Measure what is shipped; the figures of the model cards come from here.

Images are drawn and judged in WORK/measured, where an interrupted measurement continues, and the
figures are written to WORK/figures.json.
"""

import argparse
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from commands import draw, judge, judge_images
from degrade import FLAWS
from diffusers import AutoencoderKL
from PIL import Image
from reward_b import to_picture, to_tensor
from scipy.stats import pearsonr, spearmanr
from spoil import SPOILERS
from torch import Generator, Tensor
from vae import peak_signal_to_noise
from world import EMBEDDED, load_drawings, read_prompts

from expo_cli.contracts.ids import prompt_id

log = logging.getLogger("measure")
MEASURED = "measured"
# From much variation in quality, which preferences feed on, to little.
GUIDANCES = (1.5, 2.0, 3.0)
SAMPLERS = {
    "ddpm": ("--scheduler", "ddpm"),
    "ddim": ("--scheduler", "ddim"),
    "ddim-eta-1": ("--scheduler", "ddim", "--eta", 1),
    "dpm-solver++": ("--scheduler", "dpm-solver++"),
}
SAMPLER_STEPS, SAMPLER_GUIDANCES = (8, 10, 12, 16, 20), (1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class Options:
    """WORK, the most prompts of any figure, and the guidance scales, from much variation to little."""

    work: Path
    limit: int
    guidances: tuple[float, ...]


def vae(options: Options) -> float:
    """PSNR of held-out images, in dB."""
    images, _ = load_drawings(options.work, heldout=True)
    shipped = AutoencoderKL.from_pretrained(EMBEDDED / "emoji-sd" / "vae")
    return peak_signal_to_noise(shipped, images[: options.limit])


def fidelity(options: Options) -> dict:
    """How often the right caption scores highest among it and 19 others."""
    return {
        f"{split} guidance={guidance}": first_of_twenty(
            options.work, split, guidance, min(216, options.limit)
        )
        for split in ("train", "heldout")
        for guidance in options.guidances
    }


def first_of_twenty(work: Path, split: str, guidance: float, count: int) -> dict[str, float]:
    captions, folder = read_prompts(split, count), work / MEASURED / f"fidelity-{split}-{guidance}"
    samples = draw(folder, captions, "--guidance-scale", guidance, "--seed", 21)
    rng, images, candidates = random.Random(0), [], []
    for sample in samples:
        others = [caption for caption in captions if caption != sample.prompt]
        images += [sample.image] * 20
        candidates += [sample.prompt, *rng.sample(others, 19)]
    scores = judge_images(folder, Path(f"{folder}-scores"), images, candidates)
    return {
        name: (rows[:, :1] > rows[:, 1:]).all(dim=1).float().mean().item()
        for name, rows in ((name, values.view(-1, 20)) for name, values in scores.items())
    }


def agreement(options: Options) -> dict:
    """Do both rewards order the samples of a prompt alike?"""
    count = min(64, options.limit)
    return {guidance: correlation(options.work, guidance, count) for guidance in options.guidances}


def correlation(work: Path, guidance: float, count: int, group: int = 8) -> dict[str, float]:
    folder = work / MEASURED / f"agreement-{guidance}"
    options = ("--guidance-scale", guidance, "--num-images-per-prompt", group, "--seed", 22)
    scores = judge(folder, draw(folder, read_prompts("train", count), *options))
    first, second = (scores[name].view(-1, group).numpy() for name in ("a", "b"))
    rows = list(zip(first, second, strict=True))
    return {
        "spearman": float(np.mean([spearmanr(a, b).statistic for a, b in rows])),
        "pearson": float(np.mean([pearsonr(a, b).statistic for a, b in rows])),
        "spread_a": float(first.std(1).mean()),
        "spread_b": float(second.std(1).mean()),
    }


def flaws(options: Options) -> dict:
    """How often a held-out image scores above its flawed copy, for the flaws of both rewards."""
    images, drawings = load_drawings(options.work, heldout=True)
    images, drawings = images[: options.limit], drawings[: options.limit]
    captions = [drawing.caption() for drawing in drawings]
    copies = {"clean": images}
    copies |= {name: flawed_copies(images, flaw) for name, flaw in FLAWS.items()}
    copies |= {name: spoiled_copies(images, spoiler) for name, spoiler in SPOILERS.items()}
    folder = options.work / MEASURED / "flaws"
    files = save_images(folder, copies)
    scores = judge_images(folder, Path(f"{folder}-scores"), files, captions * len(copies))
    figures = {}
    for name, values in scores.items():
        clean, *flawed = values.view(len(copies), -1)
        kinds = zip(list(copies)[1:], flawed, strict=True)
        figures[name] = {kind: (clean > bad).float().mean().item() for kind, bad in kinds}
    return figures


def save_images(folder: Path, images: dict[str, Tensor]) -> list[str]:
    """Write uint8 images [count, 3, height, width] as PNG; returns their names in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, pictures in images.items():
        for row, picture in enumerate(pictures):
            files.append(f"{name.replace(' ', '-')}-{row}.png")
            to_picture(picture).save(folder / files[-1])
    return files


def negatives(options: Options) -> dict:
    """All negative prompts at the first guidance, the first one at the others too."""
    prompts = (EMBEDDED / "prompts" / "negative.txt").read_text().splitlines()
    first, *others = options.guidances
    pairs = [(prompt, first) for prompt in prompts]
    pairs += [(prompts[0], guidance) for guidance in others]
    return {
        f"{prompt} guidance={guidance}": gains(
            options.work, prompt, guidance, min(96, options.limit)
        )
        for prompt, guidance in pairs
    }


def gains(work: Path, negative: str, guidance: float, count: int) -> dict[str, list[float]]:
    """Change of the mean scores by a negative prompt, with the same noise."""
    plain, avoiding = (under_negative(work, prompt, guidance, count) for prompt in ("", negative))
    return {name: with_error(avoiding[name] - plain[name]) for name in plain}


def under_negative(work: Path, negative: str, guidance: float, count: int) -> dict[str, Tensor]:
    folder = work / MEASURED / f"negative-{guidance}-{prompt_id(negative)}"
    captions, options = read_prompts("train", count), ("--guidance-scale", guidance, "--seed", 23)
    return judge(folder, draw(folder, captions, *options, negatives=[negative] * count))


def samplers(options: Options) -> dict:
    """Mean scores at equal numbers of steps; only reward A may choose."""
    captions, figures = read_prompts("train", min(48, options.limit)), {}
    for name, sampler in SAMPLERS.items():
        for steps in SAMPLER_STEPS:
            for guidance in SAMPLER_GUIDANCES:
                folder = options.work / MEASURED / f"sampler-{name}-{steps}-{guidance}"
                settings = ("--num-inference-steps", steps, "--guidance-scale", guidance)
                samples = draw(folder, captions, *sampler, *settings, "--seed", 26)
                scores = judge(folder, samples, ["a"])["a"]
                figures[f"{name} steps={steps} guidance={guidance:g}"] = with_error(scores)
    return figures


def with_error(values: Tensor) -> list[float]:
    """The mean and its standard error."""
    return [values.mean().item(), values.std().item() / len(values) ** 0.5]


def flawed_copies(images: Tensor, flaw: Callable[[Tensor, Generator], Tensor]) -> Tensor:
    generator = Generator().manual_seed(24)
    copies = [flaw(image.float() / 255, generator).clamp(0, 1) for image in images]
    return (torch.stack(copies) * 255).round().to(torch.uint8)


def spoiled_copies(
    images: Tensor, spoiler: Callable[[Image.Image, random.Random], Image.Image]
) -> Tensor:
    rng = random.Random(25)
    return torch.stack([to_tensor(spoiler(to_picture(image), rng)) for image in images])


FIGURES = {each.__name__: each for each in (vae, fidelity, agreement, flaws, negatives, samplers)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("what", nargs="*", choices=[*FIGURES, []], help="all by default")
    parser.add_argument("--limit", type=int, default=216, help="use at most so many prompts")
    parser.add_argument("--guidances", type=float, nargs="+", default=GUIDANCES)
    arguments = parser.parse_args()
    options = Options(arguments.work, arguments.limit, tuple(arguments.guidances))
    path = options.work / "figures.json"
    for name in arguments.what or FIGURES:
        result = FIGURES[name](options)
        log.info("%s: %s", name, result)
        figures = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**figures, name: result}, indent=2) + "\n")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    main()
