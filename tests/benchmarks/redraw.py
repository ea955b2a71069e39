"""Draft and redraw against plain best-of-N at equal network passes: margins, and what drafts tell.

    python -m tests.benchmarks.redraw OUT.json

The embedded model draws training prompts; its training reward judges. Drafts: DRAFTS images in few
steps, of which the best and the worst are drawn again in full. Plain: as many full images as cost the
same passes, of which the best and the worst make the pair. A margin is best minus worst, of the full
images; the correlation is that of draft and full scores of the same noise, within a prompt.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy.stats import spearmanr

from expo_cli.contracts.files import atomic
from expo_cli.contracts.rollouts import open_rollout, scored_samples

EXPO = [sys.executable, "-m", "expo_cli"]
SAMPLER = ("--policy", "embedded:emoji-sd", "--scheduler", "dpm-solver++", "--guidance-scale", 1.5)
FULL_STEPS = 16
DRAFTS = ((8, 4), (16, 2), (16, 4), (32, 2))  # images a prompt, steps
Scores = dict[str, dict[int, float]]


def expo(*arguments: object) -> None:
    subprocess.run([*EXPO, *map(str, arguments), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def draw(prompts: Path, out: Path, images: int, steps: int, *options: object) -> Scores:
    """Draw and score; prompt_id -> index -> score."""
    sizes = ("--num-images-per-prompt", images, "--num-inference-steps", steps)
    expo("rollout", prompts, "--out", out, *SAMPLER, *sizes, *options)
    expo("score", out, "--reward", "pickscore:model=embedded:emoji-pickscore")
    found = defaultdict(dict)
    for sample, score in scored_samples(open_rollout(out), "pickscore"):
        found[sample.prompt_id][sample.index] = score
    return found


def margins(scores: Scores) -> dict[str, float]:
    return {prompt: max(each.values()) - min(each.values()) for prompt, each in scores.items()}


def correlation(drafts: Scores, full: Scores) -> float:
    """The mean over prompts of Spearman's coefficient between draft and full scores of all indices."""
    found = []
    for prompt, each in full.items():
        common = [index for index in each if index in drafts[prompt]]
        rank = spearmanr([drafts[prompt][i] for i in common], [each[i] for i in common]).statistic
        if not math.isnan(rank):
            found.append(rank)
    return fmean(found)


def ratio(ours: dict[str, float], plain: dict[str, float], seed: int = 0) -> dict[str, float]:
    """The ratio of the mean margins, with a 95 % bootstrap interval over prompts."""
    prompts = sorted(ours)
    pairs = np.array([[ours[prompt], plain[prompt]] for prompt in prompts])
    chosen = np.random.default_rng(seed).integers(len(pairs), size=(2000, len(pairs)))
    drawn = pairs[chosen].mean(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return {"value": float(np.divide(*pairs.mean(axis=0))), "low": float(low), "high": float(high)}


def compare(work: Path, prompts: Path, images: int, steps: int, full: Scores) -> dict:
    passes = images * steps + 2 * FULL_STEPS
    count = max(2, round(passes / FULL_STEPS))
    drafts = draw(prompts, work / f"drafts-{images}-{steps}", images, steps)
    options = ("--redraw", work / f"drafts-{images}-{steps}", "--redraw-reward", "pickscore")
    redrawn = draw(prompts, work / f"redrawn-{images}-{steps}", 2, FULL_STEPS, *options)
    plain = {p: {i: s for i, s in each.items() if i < count} for p, each in full.items()}
    return {
        "drafts": images,
        "draft_steps": steps,
        "passes_per_prompt": passes,
        "plain_images": count,
        "plain_passes_per_prompt": count * FULL_STEPS,
        "margin": fmean(margins(redrawn).values()),
        "plain_margin": fmean(margins(plain).values()),
        "ratio": ratio(margins(redrawn), margins(plain)),
        "correlation": correlation(drafts, full),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--prompts", type=int, default=48)
    arguments = parser.parse_args()
    most = max(images * steps + 2 * FULL_STEPS for images, steps in DRAFTS)
    with tempfile.TemporaryDirectory() as folder:
        work, prompts = Path(folder), Path(folder) / "prompts.jsonl"
        sample = ("--sample", arguments.prompts, "--seed", 300)
        expo("prep-prompts", "embedded:prompts/train.jsonl", *sample, "--out", prompts)
        full = draw(prompts, work / "full", math.ceil(most / FULL_STEPS), FULL_STEPS)
        rows = [compare(work, prompts, images, steps, full) for images, steps in DRAFTS]
    print("| drafts | passes | margin | plain, as many passes | ratio | correlation |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['drafts']} of {row['draft_steps']} steps | {row['passes_per_prompt']} | "
            f"{row['margin']:.2f} | {row['plain_margin']:.2f} of {row['plain_images']} | "
            f"{row['ratio']['value']:.2f} [{row['ratio']['low']:.2f}, {row['ratio']['high']:.2f}] | "
            f"{row['correlation']:.2f} |"
        )
    with atomic(arguments.out) as file:
        file.write(json.dumps(rows, indent=2).encode() + b"\n")


if __name__ == "__main__":
    main()
