"""Scored rollouts as `expo rollout` and `expo score` write them, with figures chosen by a test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import digest, sample_id, sample_seed
from expo_cli.contracts.provenance import Run, write_run
from expo_cli.contracts.records import Checks, Sample, Score
from expo_cli.contracts.rollouts import embeddings_path, reward_run_name, score_path
from expo_cli.contracts.shards import num_parts, part_path

CATEGORIES = ("noto", "flat", "twemoji", "fluent")
SUBJECTS = ("woman firefighter", "croissant", "red heart", "sailboat", "tulip", "smiling face")
PART_SIZE = 64

Scorer = Callable[[str, int, int], float]


def noise(*parts: object) -> float:
    """A standard normal number that depends on its parts alone."""
    return float(np.random.default_rng(digest(*parts)).standard_normal())


def prompt_text(number: int) -> str:
    return f"{CATEGORIES[number % 4]} style: {SUBJECTS[number % 6]} {number}"


def picture(number: int, index: int, saturation: float) -> Image.Image:
    """Coloured discs on white, 64x64; more colourful with `saturation`."""
    rng = np.random.default_rng((number, index))
    y, x = np.mgrid[:64, :64]
    canvas = np.ones((64, 64, 3))
    for _ in range(4):
        centre, radius = rng.uniform(12, 52, 2), rng.uniform(6, 22)
        color = np.clip(0.5 + (rng.uniform(size=3) - 0.5) * saturation, 0, 1)
        canvas[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2] = color
    return Image.fromarray((255 * canvas).astype(np.uint8))


def write_scored(
    folder: Path,
    *,
    rewards: dict[str, Scorer],
    num_prompts: int = 24,
    num_images: int = 2,
    saturation: float = 0.4,
    kl: float | None = None,
    num_kl_steps: int = 4,
    images: bool = False,
    embeddings: bool = False,
    prompt: Callable[[int], str] = prompt_text,
    seed: int = 0,
    scheduler: str = "ddpm",
    change: Callable[[int, Sample], Sample] = lambda number, sample: sample,
) -> Path:
    """A complete rollout with scores. A scorer is given policy folder, prompt number and index;
    `change` the number of a sample's prompt.
    """
    count = num_parts(num_prompts, PART_SIZE)
    plan = {"num_parts": count, "part_size": PART_SIZE, "num_prompts": num_prompts, "seed": seed}
    write_run(folder, Run(command="rollout", plan=plan, inputs={"policy": folder.name}))
    scores = folder / "scores"
    write_run(scores, Run(command="score", plan={"num_parts": count}))
    for reward in rewards:
        write_run(scores, Run(command="score", plan={"spec": reward}), reward_run_name(reward))
    for part in range(count):
        cells = [
            (number, index)
            for number in range(part * PART_SIZE, min((part + 1) * PART_SIZE, num_prompts))
            for index in range(num_images)
        ]
        samples = [
            change(
                number,
                _sample(
                    number,
                    index,
                    prompt(number),
                    saturation,
                    kl,
                    num_kl_steps,
                    images,
                    seed,
                    scheduler,
                ),
            )
            for number, index in cells
        ]
        for sample, (number, index) in zip(samples, cells, strict=True):
            if images:
                (folder / "images").mkdir(exist_ok=True)
                picture(number, index, saturation).save(folder / sample.image)
        ids = [sample.sample_id for sample in samples]
        save_file(
            {each: np.zeros((4, 8, 8), np.float16) for each in ids},
            part_path(folder, part, ".safetensors"),
        )
        jsonl.write(part_path(folder, part), samples)
        for reward, scorer in rewards.items():
            values = [scorer(folder.name, number, index) for number, index in cells]
            if embeddings:
                vectors = {
                    each: np.random.default_rng((number, index)).normal(size=8).astype(np.float32)
                    for each, (number, index) in zip(ids, cells, strict=True)
                }
                save_file(vectors, embeddings_path(scores, part, reward))
            jsonl.write(
                score_path(scores, part, reward),
                [
                    Score(
                        sample_id=sample.sample_id,
                        prompt_id=sample.prompt_id,
                        reward=reward,
                        score=value,
                        raw=value,
                    )
                    for sample, value in zip(samples, values, strict=True)
                ],
            )
    return folder


def _sample(
    number: int,
    index: int,
    prompt: str,
    saturation: float,
    kl: float | None,
    num_kl_steps: int,
    images: bool,
    seed: int,
    scheduler: str,
) -> Sample:
    prompt_id = f"prompt{number:06d}"
    name = sample_id(prompt_id, "main", 0, index)
    spread = 0.05 * noise("check", number, index)
    if kl is not None:
        kl *= 1 + 0.1 * noise("kl", number, index)
    return Sample(
        sample_id=name,
        prompt_id=prompt_id,
        prompt=prompt,
        category=CATEGORIES[number % 4],
        agent="main",
        iteration=0,
        index=index,
        seed=sample_seed(seed, prompt_id, "main", 0, index),
        negative_prompt="",
        policy="0" * 64,
        scheduler=scheduler,
        num_inference_steps=20,
        guidance_scale=4.0,
        eta=0.0,
        width=64,
        height=64,
        image=f"images/{name}.png" if images else None,
        kl=kl,
        kl_steps=None if kl is None else (kl / (num_kl_steps - 1),) * (num_kl_steps - 1) + (0.0,),
        checks=Checks(
            nan=False,
            black=False,
            saturation=saturation + spread,
            contrast=0.3 + spread,
            colorfulness=60 * saturation + 20 * spread,
            clipped=0.4 + spread,
            edge_energy=0.02 + spread / 20,
        ),
    )
