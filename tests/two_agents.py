"""Scored rollouts of two agents, small enough to pair by hand."""

from pathlib import Path

from expo_cli.contracts import jsonl
from expo_cli.contracts.ids import sample_id
from expo_cli.contracts.provenance import Run, read_run, write_run
from expo_cli.contracts.records import Checks, Sample, Score
from expo_cli.contracts.rollouts import reward_run_name, score_path
from expo_cli.contracts.shards import part_path

CHECKS = Checks(
    nan=False, black=False, saturation=0, contrast=0, colorfulness=0, clipped=0, edge_energy=0
)
PART_SIZE = 2

# Scores by prompt, one per sample. Best and worst over both agents:
# cat: explore 1 (4.0) and main 0 (1.0); dog: main 1 (9.0) and main 0 (2.0); owl: a tie.
MAIN = {"cat": [1.0, 2.0], "dog": [2.0, 9.0], "owl": [3.0, 3.0]}
EXPLORE = {"cat": [3.0, 4.0], "dog": [5.0, 6.0], "owl": [3.0, 3.0]}


def samples_of(prompt: str, count: int, agent: str, iteration: int = 1) -> list[Sample]:
    return [
        Sample(
            sample_id=sample_id(prompt, agent, iteration, index),
            prompt_id=prompt,
            prompt=f"a {prompt}",
            agent=agent,
            iteration=iteration,
            index=index,
            seed=index,
            negative_prompt="",
            policy="0" * 64,
            scheduler="ddpm",
            num_inference_steps=50,
            guidance_scale=7.5,
            eta=0,
            width=64,
            height=64,
            checks=CHECKS,
        )
        for index in range(count)
    ]


def write_rollout(
    folder: Path,
    agent: str,
    scores: dict[str, list[float]],
    rewards: tuple[str, ...] = ("pick",),
    part_size: int = PART_SIZE,
    iteration: int = 1,
) -> Path:
    """A scored rollout of the given scores; every reward gives the same ones."""
    prompts = list(scores)
    parts = [prompts[i : i + part_size] for i in range(0, len(prompts), part_size)]
    plan = {"num_parts": len(parts), "part_size": part_size, "num_prompts": len(prompts)}
    digest = "".join(prompts)
    write_run(folder, Run(command="rollout", plan=plan, inputs={"prompts": digest}))
    for number, part in enumerate(parts):
        samples = [s for p in part for s in samples_of(p, len(scores[p]), agent, iteration)]
        part_path(folder, number, ".safetensors").touch()
        jsonl.write(part_path(folder, number), samples)
        for reward in rewards:
            write_scores(folder / "scores", number, reward, samples, scores)
    return folder


def write_scores(
    folder: Path, part: int, reward: str, samples: list[Sample], scores: dict[str, list[float]]
) -> None:
    write_run(folder, Run(command="score", plan={"spec": reward}), reward_run_name(reward))
    jsonl.write(
        score_path(folder, part, reward),
        [
            Score(
                sample_id=s.sample_id,
                prompt_id=s.prompt_id,
                reward=reward,
                score=scores[s.prompt_id][s.index],
                raw=scores[s.prompt_id][s.index],
            )
            for s in samples
        ],
    )


def rescore(folder: Path, reward: str, scores: dict[str, list[float]]) -> None:
    for number in range(read_run(folder).plan["num_parts"]):
        samples = list(jsonl.read(part_path(folder, number), Sample))
        write_scores(folder / "scores", number, reward, samples, scores)


def main_and_explore(folder: Path) -> list[Path]:
    return [
        write_rollout(folder / "it1/main", "main", MAIN),
        write_rollout(folder / "it1/explore", "explore", EXPLORE),
    ]
