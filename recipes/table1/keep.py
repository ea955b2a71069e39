"""Keep the figures of one run of a recipe in a small JSON file, for tables and plots.

    python recipes/table1/keep.py RUN_FOLDER FILE.json [NAME=VALUE ...]
    python recipes/table1/keep.py --check FILE.json [NAME=VALUE ...]

With --check an existing file is compared: exit code 1 with a one-line message if it was made with
other settings.

The file holds the settings given here; for each policy its scores, means over a prompt's images, and
the KL of the first image, by prompt (in the order of `prompts`), and its drift figures; and the cost of the policies: pairs (or step pairs), optimiser
steps, images drawn for training, and seconds by command, without the start-up of programs.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

from expo_cli.contracts import jsonl
from expo_cli.contracts.files import atomic
from expo_cli.contracts.provenance import read_run
from expo_cli.contracts.results import EvaluatedSample

# The folder of the images that judge a policy, in the folder of its iteration.
JUDGED = ("heldout", "heldout-more", "train", "watched")


def named(settings: list[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dict; later ones win."""
    return dict(setting.split("=", 1) for setting in settings)


def check(file: Path, settings: dict[str, str]) -> None:
    """Exit with a line that names the first setting in which the two differ."""
    kept = json.loads(file.read_bytes())["settings"]
    for name in sorted(kept.keys() | settings.keys()):
        made, asked = (of.get(name, "its default") for of in (kept, settings))
        if made != asked:
            sys.exit(
                f"{file}: was made with {name}={made}, not {asked}; choose another RESULTS and RUNS, "
                "or move it away"
            )


def main(run: Path, file: Path, settings: dict[str, str]) -> None:
    (evaluation,) = run.glob("evaluation-*")
    more = run / f"more-{evaluation.name}"
    figures = {
        "name": file.stem,
        "settings": settings,
        "judged_on": evaluation.name.removeprefix("evaluation-"),
        **policies(evaluation, more if more.exists() else None),
        **costs(run),
        "versions": read_run(evaluation).versions,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as out:
        out.write(json.dumps(figures).encode() + b"\n")


def policies(evaluation: Path, more: Path | None) -> dict[str, Any]:
    """The figures of an evaluation of one image per prompt; `more` is that of further images."""
    results = json.loads((evaluation / "results.json").read_bytes())
    samples = list(jsonl.read(evaluation / "samples.jsonl", EvaluatedSample))
    all_images = defaultdict(list)
    for folder in filter(None, (evaluation, more)):
        for sample in jsonl.read(folder / "samples.jsonl", EvaluatedSample):
            if not sample.flagged:
                all_images[sample.label, sample.prompt_id].append(sample.scores)
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
                        mean_score(all_images[sample.label, sample.prompt_id], reward)
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


def mean_score(images: list[dict[str, float]], reward: str) -> float | None:
    """None without a good image."""
    return round(fmean(scores[reward] for scores in images), 4) if images else None


def costs(run: Path) -> dict[str, Any]:
    """Pairs, steps, images and seconds spent to make the policies, without judging them."""
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
            pair_files |= set(map(Path, made.free["pairs"]))
        if made.command == "rollout":
            images += made.counts.get("samples", 0)
    return {
        "pairs": sum(len(file.read_bytes().splitlines()) for file in pair_files),
        "steps": steps,
        "images_drawn": images,
        "seconds": {command: round(value, 1) for command, value in seconds.items()},
    }


if __name__ == "__main__":
    if sys.argv[1] == "--check":
        check(Path(sys.argv[2]), named(sys.argv[3:]))
    else:
        main(Path(sys.argv[1]), Path(sys.argv[2]), named(sys.argv[3:]))
