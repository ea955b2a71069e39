"""Inputs of any size, made without a model: prompts, and scored rollouts in the files' real contracts.

Prompts repeat and are too long now and then, as people's are. Scores are normal numbers, checks and KL
plausible ones. Latents, which nothing here reads, are one number each.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import prompt_id, sample_id, sample_seed
from expo_cli.contracts.provenance import Run, write_run
from expo_cli.contracts.records import Agent, Checks, Prompt, Sample, Score
from expo_cli.contracts.rollouts import embeddings_path, reward_run_name, score_path
from expo_cli.contracts.shards import num_parts, part_path

WORDS = [
    "a",
    "portrait",
    "of",
    "an",
    "old",
    "lighthouse",
    "at",
    "dawn",
    "in",
    "oil",
    "with",
    "soft",
    "light",
    "and",
    "many",
    "small",
    "boats",
    "under",
    "heavy",
    "clouds",
    "by",
    "the",
    "sea,",
    "highly",
    "detailed,",
    "4k,",
    "trending,",
    "cinematic",
    "wide",
    "angle",
    "film",
    "grain",
]
REWARDS = ("hpsv2", "pickscore")
EMBEDDING_SIZE = 64
KL_STEPS = 12


def prompt_texts(count: int) -> Iterator[str]:
    """Of 20 prompts one repeats an earlier one; of 100 one is over 77 tokens."""
    draw = random.Random(0)
    for number in range(count):
        if number % 20 == 19:
            number = draw.randrange(number)
        words = random.Random(number).choices(WORDS, k=90 if number % 100 == 0 else 12)
        yield f"{' '.join(words)} {number}"


def prompt_number(number: int, category: str | None = None) -> Prompt:
    text = f"{' '.join(random.Random(number).choices(WORDS, k=12))} {number}"
    return Prompt(prompt_id=prompt_id(text), prompt=text, category=category, num_tokens=17)


def write_scored_rollout(
    folder: Path,
    *,
    num_prompts: int,
    num_images: int,
    part_size: int,
    agent: Agent = "main",
    rewards: Sequence[str] = REWARDS,
    first_index: int = 0,
    evaluated: bool = False,
    seed: int = 0,
) -> Path:
    """A complete rollout and its scores. With `evaluated` as those to evaluate are: with categories,
    the KL of each step, and image embeddings of the last reward."""
    indices = range(first_index, first_index + num_images)
    count = num_parts(num_prompts, part_size)
    plan = {"num_parts": count, "part_size": part_size, "num_prompts": num_prompts}
    plan |= {"drawn_by": "synthetic"}
    inputs = {"policy": folder.name, "prompts": str(num_prompts)}
    write_run(folder, Run(command="rollout", plan=plan, inputs=inputs))
    scores = folder / "scores"
    write_run(scores, Run(command="score", plan={"num_parts": count}))
    for reward in rewards:
        write_run(scores, Run(command="score", plan={"spec": reward}), reward_run_name(reward))
    rng = np.random.default_rng(seed)
    for part in range(count):
        numbers = range(part * part_size, min((part + 1) * part_size, num_prompts))
        samples = [
            sample
            for number in numbers
            for sample in samples_of(number, indices, agent, evaluated, rng)
        ]
        latents = {sample.sample_id: np.zeros(1, np.float16) for sample in samples}
        save_file(latents, part_path(folder, part, ".safetensors"))
        for reward in rewards:
            if evaluated and reward == rewards[-1]:
                rows = rng.normal(size=(len(samples), EMBEDDING_SIZE)).astype(np.float16)
                embeddings = {s.sample_id: row for s, row in zip(samples, rows, strict=True)}
                save_file(embeddings, embeddings_path(scores, part, reward))
            jsonl.write(score_path(scores, part, reward), scores_of(samples, reward, rng))
        jsonl.write(part_path(folder, part), samples)
    return folder


def samples_of(
    number: int, indices: range, agent: Agent, evaluated: bool, rng: np.random.Generator
) -> Iterator[Sample]:
    prompt = prompt_number(number, f"style-{number % 4}" if evaluated else None)
    for index in indices:
        steps = tuple(rng.uniform(0.1, 10, KL_STEPS).tolist()) if evaluated else None
        saturation, contrast, colorfulness, clipped, edge_energy = rng.uniform(size=5).tolist()
        yield Sample(
            sample_id=sample_id(prompt.prompt_id, agent, 1, index),
            prompt_id=prompt.prompt_id,
            prompt=prompt.prompt,
            category=prompt.category,
            agent=agent,
            iteration=1,
            index=index,
            seed=sample_seed(0, prompt.prompt_id, agent, 1, index),
            negative_prompt="blurry, low quality",
            policy="0" * 64,
            scheduler="ddpm",
            num_inference_steps=50,
            guidance_scale=7.5,
            eta=0.0,
            width=512,
            height=512,
            kl=sum(steps) if steps else None,
            kl_steps=steps,
            checks=Checks(
                nan=False,
                black=False,
                saturation=saturation,
                contrast=contrast,
                colorfulness=colorfulness,
                clipped=clipped,
                edge_energy=edge_energy,
            ),
        )


def scores_of(samples: Sequence[Sample], reward: str, rng: np.random.Generator) -> Iterator[Score]:
    for sample, score in zip(samples, rng.normal(20, 2, len(samples)).tolist(), strict=True):
        yield Score(
            sample_id=sample.sample_id,
            prompt_id=sample.prompt_id,
            reward=reward,
            score=score,
            raw=score,
        )
