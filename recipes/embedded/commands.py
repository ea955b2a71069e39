"""Draw images with `expo rollout` and judge images with `expo score`."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from world import as_tensor

from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import prompt_id
from expo_cli.contracts.records import ImageEntry, Prompt, Sample, Score
from expo_cli.contracts.rollouts import open_rollout

# Where preferences have most to teach, and few steps are enough; options that come later count.
SAMPLER = ("--scheduler", "dpm-solver++", "--num-inference-steps", 12, "--guidance-scale", 2)
REWARDS = {
    "a": "pickscore:model=embedded:emoji-pickscore",
    "b": "hpsv2:model=embedded:emoji-hps",
}


def expo(*arguments: object) -> None:
    """Run the installed command; it writes its own progress and errors to stderr."""
    subprocess.run(["expo", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def draw(
    folder: Path,
    captions: Sequence[str],
    *options: object,
    policy: str | Path = "embedded:emoji-sd",
    negatives: Sequence[str] | None = None,
) -> list[Sample]:
    """Draw distinct captions into a rollout folder, with options of `expo rollout` besides SAMPLER.

    Returns the samples in the order of the captions. A folder that is complete is only read.
    """
    prompts = folder.with_name(f"{folder.name}.prompts.jsonl")
    records = [
        Prompt(prompt_id=prompt_id(caption), prompt=caption, negative_prompt=negative)
        for caption, negative in zip(captions, negatives or [""] * len(captions), strict=True)
    ]
    folder.parent.mkdir(parents=True, exist_ok=True)
    jsonl.write(prompts, records)
    one_image = ("--num-images-per-prompt", 1, "--images", "png")
    expo("rollout", prompts, "--out", folder, "--policy", policy, *one_image, *SAMPLER, *options)
    rollout = open_rollout(folder)
    return [sample for part in range(rollout.num_parts) for sample in rollout.samples(part)]


def read_images(folder: Path, samples: Sequence[Sample]) -> Tensor:
    """The images of a rollout, uint8 [count, 3, height, width]."""
    images = [np.asarray(Image.open(folder / sample.image)) for sample in samples]
    return as_tensor(np.stack(images))


def judge(folder: Path, samples: Sequence[Sample], names: Sequence[str] = ("a", "b")) -> dict:
    """The scores of a rollout's samples by rewards, {name: [count]}."""
    expo("score", folder, *reward_options(names))
    ids = [sample.sample_id for sample in samples]
    return {name: read_scores(folder / "scores", name, ids) for name in names}


def judge_images(
    folder: Path, out: Path, images: Sequence[str], captions: Sequence[str]
) -> dict[str, Tensor]:
    """The scores of image files of a folder for one caption each, by both rewards, {name: [count]}."""
    entries = [
        ImageEntry(image=image, prompt=caption, sample_id=f"{row}")
        for row, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]
    index = out.with_name(f"{out.name}.index.jsonl")
    jsonl.write(index, entries)
    expo("score", folder, "--index", index, "--out", out, *reward_options(REWARDS))
    ids = [entry.sample_id for entry in entries]
    return {name: read_scores(out, name, ids) for name in REWARDS}


def reward_options(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--reward", f"{name}={REWARDS[name]}")]


def read_scores(folder: Path, name: str, sample_ids: Sequence[str]) -> Tensor:
    paths = folder.glob(f"part-*.{name}.jsonl")
    scores = {s.sample_id: s.score for path in paths for s in jsonl.read(path, Score)}
    return torch.tensor([scores[sample_id] for sample_id in sample_ids])
