"""Keep the figures of one run of a recipe in one small JSON file, from which tables and plots are made.

    python recipes/table1/keep.py RUN_FOLDER FILE.json [NAME=VALUE ...]

The file holds the settings given here; for each policy its scores and KL by prompt (in the order of
`prompts`), and its drift figures; and what the policies took: pairs (or step pairs), optimiser
steps, images drawn to train on, and seconds by command, without the start-up of programs.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import atomic
from expo_cli.contracts.provenance import read_run
from expo_cli.contracts.results import EvaluatedSample

# Where a recipe keeps the images by which it judges a policy, in the folder of the iteration.
JUDGED = ("heldout", "train")


def main(run: Path, file: Path, settings: list[str]) -> None:
    (evaluation,) = run.glob("evaluation-*")
    figures = {
        "name": file.stem,
        "settings": dict(setting.split("=", 1) for setting in settings),
        "judged_on": evaluation.name.removeprefix("evaluation-"),
        **policies(evaluation),
        **costs(run),
        "versions": read_run(evaluation).versions,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as out:
        out.write(json.dumps(figures).encode() + b"\n")


def policies(evaluation: Path) -> dict[str, Any]:
    results = json.loads((evaluation / "results.json").read_bytes())
    samples = list(jsonl.read(evaluation / "samples.jsonl", EvaluatedSample))
    by_policy = {
        policy["label"]: [sample for sample in samples if sample.label == policy["label"]]
        for policy in results["policies"]
    }
    first = by_policy[results["baseline"]]
    return {
        "training_reward": results["training_reward"],
        "heldout_reward": results["heldout_reward"],
        "prompts": [sample.prompt_id for sample in first],
        "categories": [sample.category for sample in first],
        "policies": [
            {
                "label": policy["label"],
                "scores": {
                    reward: [
                        None if sample.flagged else round(sample.scores[reward], 4)
                        for sample in by_policy[policy["label"]]
                    ]
                    for reward in results["rewards"]
                },
                "kl": [
                    None if sample.kl is None else round(sample.kl, 3)
                    for sample in by_policy[policy["label"]]
                ],
                "drift": {
                    name: {"mean": figure["mean"]["value"], "shift": figure["shift"]}
                    for name, figure in policy["drift"].items()
                },
            }
            for policy in results["policies"]
        ],
    }


def costs(run: Path) -> dict[str, Any]:
    """Pairs, steps, images and seconds of everything that made the policies; not of judging them."""
    seconds: Counter[str] = Counter()
    pair_files: set[Path] = set()
    steps, images = 0, 0
    for path in sorted(run.glob("iteration-*/**/*run.json")):
        if path.relative_to(run).parts[1] in JUDGED:
            continue
        made = read_run(path.parent, path.name)
        seconds[made.command] += made.seconds or 0
        if made.command == "train":
            steps += made.plan["max_train_steps"]
            pair_files |= {Path(name) for name in made.inputs if name.endswith(".jsonl")}
        if made.command == "rollout":
            images += made.counts.get("samples", 0)
    return {
        "pairs": sum(len(file.read_bytes().splitlines()) for file in pair_files),
        "steps": steps,
        "images_drawn": images,
        "seconds": {command: round(value, 1) for command, value in seconds.items()},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
